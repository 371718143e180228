"""A :class:`Structure`: a model's parts, read from its module tree and not from the names of one release."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.models.families import Family, family_of
from lesion.models.feedforward import linear_layers

if TYPE_CHECKING:
    from torch import nn

    from lesion.core.sites import Component

_QFORMER = re.compile(r"(^|\.)qformer(\.|$)")
_MERGER = re.compile(r"(^|\.)[^.]*(merger|resampler)[^.]*(\.|$)")
"""Parts that some families keep within the image encoder, and that are none of it."""
_BETWEEN = re.compile(r"(^|\.)[^.]*(merger|merging|projector|projection|connector|resampler)[^.]*(\.|$)")
"""What the parts between image encoder and language model are called."""
_LANGUAGE = ("language_model", "text_model")
"""Attributes that hold a whole language model, of which the decoder may be one half only."""
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|score|classifier)(\.|$)")


@dataclass(frozen=True)
class Structure:
    """Where a model's parts are.

    Attributes:
        vision: Path of the image encoder; None in a model that reads text alone.
        language: Path of the language model; ``""`` is the model itself.
        decoder: Path of the module that is called with the ``inputs_embeds`` in which image and text are merged.
        generator: Path of the module that has ``generate`` and takes them; ``""`` is the model itself.
        family: What the tree does not say.
        unreachable: Patterns (matched at the start of a path) of modules whose output never reaches the answer.
    """

    vision: str | None
    language: str
    decoder: str
    generator: str
    family: Family
    unreachable: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Structure:
        """Reads a model; nothing of it is run."""
        whole: Any = model
        paths = {id(module): path for path, module in model.named_modules()}
        decoder = whole.get_decoder()
        encoder = whole.get_encoder(modality="image")
        vision = paths.get(id(encoder), "") or None
        at = paths.get(id(decoder), "")
        if vision is not None and f"{at}.".startswith(f"{vision}."):
            vision = None  # what the model calls its encoder holds the decoder: it is no image encoder
        family, language = family_of(whole.config), _language(at) if vision else ""
        # BLIP-2 and its like hold a whole language model with its own head, and generate with that.
        generator = language if language and hasattr(whole.get_submodule(language), "generate") else ""
        return cls(
            vision=vision, language=language, decoder=generator or at, generator=generator, family=family,
            unreachable=tuple(map(re.compile, (*_unread_layers(whole.config, vision), *family.unreachable(whole.config)))),
        )  # fmt: skip

    def component_of(self, path: str) -> Component | None:
        """The component that a module belongs to; None for what is no part of any, such as the output head."""
        if self.vision is None:
            return None if _HEAD.search(path) else "language"
        if _QFORMER.search(path):
            return "qformer"
        if _within(path, self.vision):
            return "connector" if _MERGER.search(path[len(self.vision) :]) else "vision"
        if _within(path, self.language):
            return None if _HEAD.search(path) else "language"
        return None if _HEAD.search(path) else "connector"

    def projections(self, modules: Mapping[str, Any], taken: set[str]) -> Iterator[tuple[str, int]]:
        """Single linear maps between the parts: path and width.

        Args:
            modules: ``dict(model.named_modules())``.
            taken: Paths of the linear layers that belong to a feed-forward network.
        """
        for path in self.family.projections:
            yield path, int(next(p for p in modules[path].parameters(recurse=False) if p.ndim == 2).shape[1])
        for path, width in linear_layers(modules):
            if path not in taken and self.component_of(path) == "connector" and _BETWEEN.search(path):
                yield path, width

    def reachable(self, path: str) -> bool:
        """Whether a module's output can reach the answer, as far as the configuration says."""
        return not any(pattern.match(path) for pattern in self.unreachable)


def _within(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")


def _language(decoder: str) -> str:
    """The language model that the decoder is (a part of)."""
    steps = decoder.split(".")
    for i, step in enumerate(steps):
        if step in _LANGUAGE:
            return ".".join(steps[: i + 1])
    return decoder


def _unread_layers(config: Any, vision: str | None) -> list[str]:
    """Parts of the image encoder that run for nothing.

    LLaVA and its like read the hidden states after ``vision_feature_layer``, and not the layers behind it; nobody reads the
    pooled output of SigLIP's head.
    """
    chosen = getattr(config, "vision_feature_layer", None)
    layers = getattr(getattr(config, "vision_config", None), "num_hidden_layers", None)
    if vision is None:
        return []
    head = [rf"{re.escape(vision)}\.(vision_model\.)?head\."]
    if chosen is None or layers is None:
        return head
    # hidden_states has one entry more than there are layers: entry i is what layer i - 1 left.
    last = max(i % (layers + 1) for i in (chosen if isinstance(chosen, list | tuple) else [chosen]))
    return head + [rf"{re.escape(vision)}\..*layers?\.{layer}\." for layer in range(last, layers)]


def layer_of(path: str, modules: Mapping[str, Any]) -> int:
    """A module's 0-based layer: its place in the outermost list of modules that it is in; 0 where it is in none.

    Args:
        path: Of the module.
        modules: ``dict(model.named_modules())``.
    """
    from torch.nn import ModuleList

    steps = path.split(".")
    for i, step in enumerate(steps[1:], start=1):
        if step.isdigit() and isinstance(modules[".".join(steps[:i])], ModuleList):
            return int(step)
    return 0
