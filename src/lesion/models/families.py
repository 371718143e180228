"""One small declarative description a model family: what the module tree alone does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lesion.errors import ModelError
from lesion.sites import Component


def _nothing(config: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class Family:
    """What lesion must be told about a model family.

    Attributes:
        name: ``config.model_type``.
        components: Path prefix -> component. Modules under no prefix are not searched.
        decoder: Path of the module that is called once with the finished ``inputs_embeds`` (image and text merged);
            what it is given is all that the language model knows of the image.
        generator: Path of the module that has ``generate`` and takes those ``inputs_embeds``; ``""`` is the model itself.
        projections: Paths of single linear layers between the parts, whose output channels are ``down`` neurons.
        unreachable: Given the config, patterns (matched at the start of a path) of modules whose output never reaches
            the answer.
        padded_by: Pattern of a path -> name of the input whose attention mask says which of that module's tokens are
            padding. Language modules are padded by ``attention_mask``; all others have no padding.
    """

    name: str
    components: Mapping[str, Component]
    decoder: str
    generator: str
    projections: tuple[str, ...] = ()
    unreachable: Callable[[Any], list[str]] = _nothing
    padded_by: Mapping[str, str] = field(default_factory=dict)

    def component_of(self, path: str) -> Component | None:
        """The component of a module, by the longest prefix that fits; None outside all of them."""
        fits = [p for p in self.components if path == p or path.startswith(f"{p}.")]
        return self.components[max(fits, key=len)] if fits else None


def _llava_unreachable(config: Any) -> list[str]:
    """LLaVA reads the hidden states after ``vision_feature_layer``; the vision layers behind it run for nothing."""
    layers = config.vision_config.num_hidden_layers
    chosen = config.vision_feature_layer
    # hidden_states has one entry more than there are layers: entry i is what layer i - 1 left.
    last = max(i % (layers + 1) for i in (chosen if isinstance(chosen, list) else [chosen]))
    return [rf".*vision_tower\..*layers\.{layer}\." for layer in range(last, layers)]


def _instructblip_unreachable(config: Any) -> list[str]:
    """Only the query tokens leave the Q-Former, so the text tokens' last feed-forward network has no reader."""
    last = config.qformer_config.num_hidden_layers - 1
    return [rf"qformer\.encoder\.layer\.{last}\.(intermediate|output)\."]


FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="llava",
            components={
                "model.vision_tower": "vision",
                "model.multi_modal_projector": "connector",
                "model.language_model": "language",
            },
            decoder="model.language_model",
            generator="",
            unreachable=_llava_unreachable,
        ),
        Family(
            name="instructblip",
            components={
                "vision_model": "vision",
                "qformer": "qformer",
                "language_projection": "connector",
                "language_model": "language",
            },
            decoder="language_model",
            generator="language_model",
            projections=("language_projection",),
            unreachable=_instructblip_unreachable,
            padded_by={r"qformer\.encoder\.layer\.\d+\.(intermediate|output)\.": "qformer_attention_mask"},
        ),
    )
}


def family_of(config: Any) -> Family:
    """The description of a model's family.

    Raises:
        ModelError: A family that this version does not know; the message lists the known ones.
    """
    found = getattr(config, "model_type", None)
    if found not in FAMILIES:
        raise ModelError(f"model type {found!r} is not supported yet; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[found]
