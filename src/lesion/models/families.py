"""One small declarative description a model family, where its module tree alone does not say enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def _nothing(config: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class Family:
    """What lesion must be told about a model family; most need nothing, see :mod:`lesion.models.structure`.

    Attributes:
        projections: Paths of modules between the parts that are single linear maps without being a linear layer, and
            whose output channels are ``down`` neurons.
        unreachable: Given the config, patterns (matched at the start of a path) of modules whose output never reaches
            the answer.
        padded_by: Pattern of a path -> name of the input whose attention mask says which of that module's tokens are
            padding; tokens that it has before those of the mask (a Q-Former's queries) are none. Language modules are padded by
            ``attention_mask``; all others have no padding.
        embeds: The language model knows nothing of the image but the ``inputs_embeds`` that it is called with, and can
            generate from them; see :class:`lesion.models.engines.EmbedsEngine`. False is always right, and slower.
        rows_are_samples: In every module the first dimension of an activation is the batch's, so that several samples can
            be scored at a time. False is always right, and slower.
        answer_type: ``token_type_ids`` of an answer's tokens, where the model has such.
    """

    projections: tuple[str, ...] = ()
    unreachable: Callable[[Any], list[str]] = _nothing
    padded_by: Mapping[str, str] = field(default_factory=dict)
    embeds: bool = False
    rows_are_samples: bool = False
    answer_type: int = 0


def _instructblip_unreachable(config: Any) -> list[str]:
    """Only the query tokens leave the Q-Former, so the text tokens' last feed-forward network has no reader."""
    last = config.qformer_config.num_hidden_layers - 1
    return [rf"qformer\.encoder\.layer\.{last}\.(intermediate|output)\."]


FAMILIES = {
    **{
        name: Family(embeds=True)
        for name in (
            "aya_vision", "blip-2", "cohere2_vision", "idefics3", "internvl", "llava_next", "llava_onevision", "mistral3",
            "smolvlm",
        )
    },
    # These read text alone.
    **{name: Family(embeds=True, rows_are_samples=True) for name in ("llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3")},
    "gemma3": Family(projections=("model.multi_modal_projector",)),  # a bare parameter
    "instructblip": Family(
        unreachable=_instructblip_unreachable,
        padded_by={r"qformer\.encoder\.layer\.\d+\.(attention\.output|intermediate|output)\.": "qformer_attention_mask"},
        embeds=True, rows_are_samples=True,
    ),
    "llava": Family(embeds=True, rows_are_samples=True),
    "paligemma": Family(answer_type=1),
}  # fmt: skip
"""By ``config.model_type``."""


def family_of(config: Any) -> Family:
    """The description of a model's family; an empty one where none is needed."""
    return FAMILIES.get(getattr(config, "model_type", ""), Family())
