"""The :class:`WholeEngine`: runs a model as its own ``generate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lesion.models.decoding import Reply, chosen
from lesion.models.engines import Asked, See, open_plainly, plain_generation, reply_plainly
from lesion.models.handle import ModelHandle
from lesion.models.inputs import Answer, Prompt, collate
from lesion.models.layout import TokenLayout
from lesion.models.opened import Opened
from lesion.models.trunk import DecoderLayers, Intact, Part

if TYPE_CHECKING:
    import torch


NO_TOKEN = 2**31 - 1
"""A token id that no vocabulary has."""


class WholeEngine:
    """Runs the whole model. A context is the prompt itself."""

    one_pass = False
    layers = DecoderLayers()

    def __init__(self, model_handle: ModelHandle) -> None:
        self._handle = model_handle

    def embed(self, prompts: Sequence[Prompt]) -> list[Any]:
        return list(prompts)

    def generate(self, contexts: Sequence[Any], max_new_tokens: int) -> list[list[int]]:
        return self._run(contexts, plain_generation(self._handle, max_new_tokens)).sequences.tolist()

    def answer_log_probs(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        """Generates with every token given: the model's own way through prompt, cache and positions, whatever it is."""
        import torch
        from transformers import LogitsProcessorList

        longest = max(len(a.ids) for a in answers)
        forced = [list(a.ids) + [self._handle.pad] * (longest - len(a.ids)) for a in answers]
        plain = plain_generation(self._handle, longest)
        plain.output_logits = True
        # Every row goes on to the end of the longest answer.
        plain.eos_token_id = NO_TOKEN
        output = self._run(contexts, plain, LogitsProcessorList([_Forced(forced)]))
        logits = torch.stack(output.logits, dim=1).float()
        return [row[: len(a.ids)].log_softmax(-1) for row, a in zip(logits, answers, strict=True)]

    def open(self, asked: Asked, layout: TokenLayout, parts: Sequence[Part], see: See) -> list[Opened]:
        return open_plainly(self, asked, layout, see)

    def reply(self, asked: Asked, layout: TokenLayout, parts: Sequence[Part], see: See) -> list[Reply]:
        return reply_plainly(self, self._handle, asked, layout, see)

    def intact(self, contexts: Sequence[Any], references: Sequence[Answer]) -> list[Intact]:
        return [Intact(log_probs) for log_probs in self.answer_log_probs(contexts, references)]

    def judge(
        self, contexts: Sequence[Any], intact: Sequence[Intact], references: Sequence[Answer], answers: Sequence[Answer]
    ) -> list[list[float]]:
        return [chosen(p, a.ids) for p, a in zip(self.answer_log_probs(contexts, answers), answers, strict=True)]

    def _run(self, contexts: Sequence[Any], plain: Any, processors: Any = None) -> Any:
        """The output of ``generate``, its sequences without the prompt."""
        import torch

        handle = self._handle
        # What a decoder writes must follow the prompt at once; an encoder may count its positions from the left.
        inputs = collate([p.inputs for p in contexts], handle.pad, "right" if handle.is_encoder_decoder else "left")
        plain.return_dict_in_generate = True
        with torch.inference_mode():
            output = handle.model.generate(**inputs, generation_config=plain, logits_processor=processors)
        # A decoder repeats the prompt; an encoder-decoder begins with its start token.
        output.sequences = output.sequences[:, 1 if handle.is_encoder_decoder else inputs["input_ids"].shape[1] :]
        return output


class _Forced:
    """A logits processor that leaves one token a row and step."""

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        self._ids, self._step = ids, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        forced = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(self._ids):
            forced[row, ids[self._step]] = 0
        self._step += 1
        return forced
