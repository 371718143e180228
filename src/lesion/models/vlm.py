"""A loaded vision-language model, with the few things that lesion does with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lesion.models import experts
from lesion.models.batch import Batch, token_classes
from lesion.models.discovery import discover
from lesion.models.engines import EmbedsEngine, Engine, WholeEngine
from lesion.models.inputs import Answer, Prompt
from lesion.models.placement import run_device, tensors
from lesion.models.structure import Structure
from lesion.sites import Sites

if TYPE_CHECKING:
    import torch

    from lesion.data import Sample

_SMALL = 2**28
"""Models of at most so many weights are fingerprinted whole; of larger ones, a part of every tensor."""


class VisionLanguageModel:
    """A model, its processor and its sites.

    Args:
        model: In Hugging Face's own class; it is frozen and put in evaluation mode.
        processor: The model's own; a tokenizer for a model that reads text alone.
        name: For people.

    Raises:
        ModelError: No feed-forward site, or one of a make that is not known.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor, self.name = processor, name
        self.structure = Structure.of(model)
        self.sites: Sites = discover(model, self.structure)
        experts.adopt(model)  # masked or not, experts are computed by the same function, and round alike
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.eos = _as_list(model.generation_config.eos_token_id) or _as_list(self.tokenizer.eos_token_id)
        self.pad: int = next(
            i for i in (self.tokenizer.pad_token_id, model.generation_config.pad_token_id, *self.eos, 0) if i is not None
        )

    @cached_property
    def engine(self) -> Engine:
        """How it is run from a prompt on."""
        return EmbedsEngine(self) if self.structure.family.embeds and not self.two_stacks else WholeEngine(self)

    @property
    def two_stacks(self) -> bool:
        """Whether the language model has an encoder for the prompt and a decoder for the answer."""
        return bool(self.model.config.is_encoder_decoder or self.model.config.get_text_config().is_encoder_decoder)

    @property
    def image_token(self) -> int | None:
        """Id of the token that stands for (a part of) an image in the prompt; None where there is none."""
        config = self.model.config
        found = getattr(config, "image_token_id", None)
        return getattr(config, "image_token_index", None) if found is None else found

    @property
    def device(self) -> torch.device:
        return run_device(self.model)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, 16 hexadecimal digits; the same weights have the same one whatever their file."""
        import torch

        whole = sum(p.numel() for p in self.model.parameters()) <= _SMALL
        text = hashlib.sha256()
        for name, tensor in tensors(self.model):
            flat = tensor.detach().flatten()
            part = flat if whole else flat[:: max(1, flat.numel() // 1024)]
            text.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            text.update(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return text.hexdigest()[:16]

    # -- inputs ------------------------------------------------------------------------------------------------------
    def prompt(self, sample: Sample, prompt: str) -> Prompt:
        """Processes one sample: the chat template where the processor has one, the plain prompt otherwise.

        Args:
            sample: Its own prompt goes before the other.
            prompt: What it is asked otherwise.

        Raises:
            DataError: The model reads images, and the sample has none.
        """
        asked = sample.prompt or prompt
        inputs = self._text_inputs(asked) if self.structure.vision is None else self._image_inputs(sample, asked)
        kept = {k: v for k, v in inputs.items() if k != "labels"}  # PaliGemma's processor makes some of its own
        floats = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in kept.items()}
        return Prompt(sample.id, {k: v.to(self.device) for k, v in floats.items()})

    def _image_inputs(self, sample: Sample, asked: str) -> Any:
        text = asked
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": asked}]
            text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return self.processor(text=[text], images=[sample.picture], return_tensors="pt")

    def _text_inputs(self, asked: str) -> Any:
        if not self.tokenizer.chat_template:
            return self.tokenizer([asked], return_tensors="pt")
        turns = [{"role": "user", "content": asked}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        # The template writes the special tokens itself.
        return self.tokenizer([text], add_special_tokens=False, return_tensors="pt")

    def token_classes(self, prompt: Prompt) -> torch.Tensor:
        """The class of each token of a prompt (see :data:`lesion.masking.CLASSES`), int64 ``[tokens]``."""
        ids = prompt.inputs["input_ids"][prompt.inputs["attention_mask"].bool()]
        return token_classes(ids[None], ids[None] == (-1 if self.image_token is None else self.image_token))[0].cpu()

    def encode(self, text: str) -> Answer:
        """A given text as an answer: its tokens and the end token."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return Answer((*ids, *self.eos[:1]), text)

    # -- running -----------------------------------------------------------------------------------------------------
    def embed(self, prompts: Sequence[Prompt]) -> list[Any]:
        """Runs everything that masks of the language model leave as it is.

        Returns:
            A context for each prompt, for :meth:`generate` and :meth:`answer_log_probs`.
        """
        return self.engine.embed(prompts)

    def generate(self, contexts: Sequence[Any], max_new_tokens: int) -> list[Answer]:
        """Greedy answers.

        Args:
            contexts: As :meth:`embed` returns them.
            max_new_tokens: An answer that has not come to its end by then is cut.
        """
        return [self._answer(ids) for ids in self.engine.generate(contexts, max_new_tokens)]

    def _answer(self, ids: list[int]) -> Answer:
        for i, token in enumerate(ids):
            if token in self.eos:
                ids = ids[: i + 1]
                break
        return Answer(tuple(ids), self.tokenizer.decode(ids, skip_special_tokens=True).strip())

    def answer_log_probs(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        """Teacher forcing: the log-probabilities before each token of the given answers.

        Returns:
            For each row, float32 ``[answer tokens, vocabulary]``: the distribution from which each token was taken.
        """
        return self.engine.answer_log_probs(contexts, answers)

    # -- scoring -----------------------------------------------------------------------------------------------------
    def batches(self, prompts: Sequence[Prompt], answers: Sequence[Answer], size: int) -> Iterator[Batch]:
        """Batches for :func:`lesion.scoring.score`: of one sample where a site's rows are not the samples."""
        size = size if self.structure.family.rows_are_samples else 1
        for i in range(0, len(prompts), size):
            yield Batch(self, prompts[i : i + size], answers[i : i + size])


def _as_list(ids: Any) -> list[int]:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple) else [ids]
