"""A :class:`ModelHandle`: a loaded model with what must be known to run it, and nothing of what is done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lesion.core.shared import Shared
from lesion.models import experts
from lesion.models.inputs import Answer
from lesion.models.placement import run_device
from lesion.models.structure import Structure

if TYPE_CHECKING:
    import torch
    from torch import nn

_SMALL = 2**24
"""Weights of a small model."""


class ModelHandle:
    """A model, its processor, and its special tokens.

    Args:
        model: In Hugging Face's own class. It is studied frozen and in evaluation mode, and given back as it was.
        processor: The model's own; a tokenizer for a model that reads text alone.
        name: For people.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.structure = Structure.of(model)
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.eos = _as_list(model.generation_config.eos_token_id) or _as_list(self.tokenizer.eos_token_id)
        self.pad: int = next(
            i for i in (self.tokenizer.pad_token_id, model.generation_config.pad_token_id, *self.eos, 0) if i is not None
        )

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The model as it is studied while the context lasts; then as it was.

        Weights are frozen, dropout is off, and experts are computed by lesion's function: masked or not they then round alike.
        """
        with frozen(self.model), experts.adopted(self.model):
            yield

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the language model has an encoder for the prompt and a decoder for the answer."""
        return bool(self.model.config.is_encoder_decoder or self.model.config.get_text_config().is_encoder_decoder)

    @property
    def image_token(self) -> int | None:
        """Id of the token that stands for (a part of) an image in the prompt; None where there is none."""
        config = self.model.config
        token = getattr(config, "image_token_id", None)
        return getattr(config, "image_token_index", None) if token is None else token

    def answer(self, ids: Sequence[int]) -> Answer:
        """From generated tokens; what comes after an end token is padding."""
        end = next((i + 1 for i, token in enumerate(ids) if token in self.eos), len(ids))
        return Answer(tuple(ids[:end]), self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip())

    @cached_property
    def wide(self) -> bool:
        """Whether a pass over many rows takes hardly longer than one over few.

        So it is on a GPU, whose time goes into reading weights, and for small models, whose time goes into calling modules.
        """
        return self.device.type != "cpu" or sum(p.numel() for p in self.model.parameters()) < _SMALL

    @property
    def device(self) -> torch.device:
        return run_device(self.model)


def _freeze(model: nn.Module) -> Callable[[], None]:
    wanted = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    for parameter in wanted:
        parameter.requires_grad_(False)
    for module in training:
        module.training = False

    def undo() -> None:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True

    return undo


frozen: Shared[nn.Module] = Shared(_freeze)
"""No parameter wants a gradient and dropout is off while a context lasts; then everything is as it was."""


def _as_list(ids: Any) -> list[int]:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple) else [ids]
