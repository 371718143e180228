"""Engines: two ways to run a model from a prompt on, which give the same answers.

:class:`WholeEngine` runs the model as its own ``generate`` does, on every prompt anew; it is right for every family.
:class:`EmbedsEngine` is for families whose language model knows nothing of the image but the ``inputs_embeds`` that it is
called with: these are computed once a sample, and everything starts from there, so that an experiment that masks the
language model alone runs the vision part once an image, however many masks are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from lesion.core.errors import ModelError
from lesion.models.handle import ModelHandle
from lesion.models.inputs import Answer, Prompt, collate

if TYPE_CHECKING:
    import torch


NO_TOKEN = 2**31 - 1
"""A token id that no vocabulary has."""


class Engine(Protocol):
    """Contexts are what :meth:`embed` returns, one a prompt; only the same engine can read them."""

    one_pass: bool
    """Whether :meth:`answer_log_probs` runs prompt and answer in one pass, not token by token."""

    def embed(self, prompts: Sequence[Prompt]) -> list[Any]:
        """Runs what can be run once for all masks of the language model."""
        ...

    def generate(self, contexts: Sequence[Any], max_new_tokens: int) -> list[list[int]]:
        """Greedy answers: token ids, perhaps with padding after the end token."""
        ...

    def answer_log_probs(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        """For each row, float32 ``[answer tokens, vocabulary]``: the distribution from which each token was taken."""
        ...


def plain_generation(handle: ModelHandle, max_new_tokens: int) -> Any:
    """Greedy decoding, whatever the checkpoint's own configuration asks for: beams, penalties, forced or suppressed tokens."""
    own = handle.model.generation_config
    return _plain_class()(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, pad_token_id=handle.pad, eos_token_id=handle.eos or None,
        bos_token_id=handle.tokenizer.bos_token_id, decoder_start_token_id=getattr(own, "decoder_start_token_id", None),
        # A model that babbles may say its image token, which in the input stands for an image that is not there.
        suppress_tokens=None if handle.image_token is None else [handle.image_token],
    )  # fmt: skip


@cache
def _plain_class() -> Any:
    from transformers import GenerationConfig

    class Plain(GenerationConfig):
        """Takes nothing from a model's own configuration, with which ``generate`` fills whatever is None."""

        def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
            # Entries of its own kind are allowed from the model's configuration alone; other calls bring the defaults.
            # That of max_length would be complained about beside max_new_tokens.
            values.pop("max_length", None)
            return {} if allow_custom_entries else super().update(defaults_only, **values)

    return Plain


class WholeEngine:
    """Runs the whole model. A context is the prompt itself."""

    one_pass = False

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


class _Captured(Exception):  # noqa: N818 (not an error: it carries what the decoder was called with)
    def __init__(self, embeds: torch.Tensor) -> None:
        super().__init__()
        self.embeds = embeds


class EmbedsEngine:
    """Starts from the embeddings that the language model is called with. A context is ``[tokens, width]``."""

    one_pass = True

    def __init__(self, model_handle: ModelHandle) -> None:
        self._handle = model_handle
        self._decoder = model_handle.model.get_submodule(model_handle.structure.decoder)
        self._generator: Any = model_handle.model.get_submodule(model_handle.structure.generator)

    def embed(self, prompts: Sequence[Prompt]) -> list[Any]:
        import torch

        def capture(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            raise _Captured(kwargs["inputs_embeds"])

        inputs = collate([p.inputs for p in prompts], self._handle.pad)
        hook = self._decoder.register_forward_pre_hook(capture, with_kwargs=True)
        try:
            with torch.inference_mode():
                self._handle.model(**inputs)
        except _Captured as captured:
            kept = inputs["attention_mask"].bool()
            return [row[keep].clone() for row, keep in zip(captured.embeds, kept, strict=True)]
        finally:
            hook.remove()
        raise ModelError(f"{self._handle.name}: {self._handle.structure.decoder} was never called")

    def generate(self, contexts: Sequence[Any], max_new_tokens: int) -> list[list[int]]:
        import torch

        joined, mask = _left_pad(contexts)
        plain = plain_generation(self._handle, max_new_tokens)
        with torch.inference_mode():
            return self._generator.generate(inputs_embeds=joined, attention_mask=mask, generation_config=plain).tolist()

    def answer_log_probs(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        import torch

        table = self._handle.model.get_input_embeddings()
        rows = []
        for prompt, answer in zip(contexts, answers, strict=True):
            spoken = table(torch.tensor(answer.ids, device=self._handle.device))
            rows.append(torch.cat([prompt, spoken.to(prompt)]))
        joined, mask = _left_pad(rows)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        keep = max(len(a.ids) for a in answers) + 1
        with torch.inference_mode():
            logits = self._generator(
                inputs_embeds=joined, attention_mask=mask, position_ids=positions, logits_to_keep=keep, use_cache=False
            ).logits
        # The last position predicts what comes after the answer.
        return [row[keep - 1 - len(a.ids) : keep - 1].float().log_softmax(-1) for row, a in zip(logits, answers, strict=True)]


def _left_pad(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """``[rows, longest, width]`` with the rows at the right, and their attention mask ``[rows, longest]``."""
    import torch

    longest = max(len(r) for r in rows)
    joined = torch.stack([torch.nn.functional.pad(r, (0, 0, longest - len(r), 0)) for r in rows])
    lengths = torch.tensor([len(r) for r in rows], device=joined.device)
    mask = torch.arange(longest, device=joined.device) >= (longest - lengths)[:, None]
    return joined, mask.long()
