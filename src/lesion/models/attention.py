"""Attention heads as sites: the slice of an out-projection's input that one head wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lesion.core.sites import Site
from lesion.models.feedforward import fans
from lesion.models.structure import Structure, layer_of

if TYPE_CHECKING:
    from torch import nn

NAMES = ("o_proj", "out_proj", "c_proj", "proj", "dense", "projection_layer", "wo", "o")
"""What the out-projections of attention are called."""
_INPUTS = ("q_proj", "qkv", "qkv_proj", "c_attn", "query_key_value", "q", "Wqkv")
"""A module is attention when it holds one of these beside an out-projection."""


def heads(model: nn.Module, structure: Structure) -> Iterator[Site]:
    """Every attention head of a model whose number of heads can be read; other attention is passed over.

    A head's values are what it writes into the out-projection, ``[rows, tokens, heads * size]`` before the projection mixes
    them. Masking a head is masking its slice.

    Args:
        model: Nothing of it is run.
        structure: Which part of the tree is which component.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    for path, module in modules.items():
        component = structure.component_of(path)
        if component is None or not any(hasattr(module, name) for name in _INPUTS):
            continue
        out = next((name for name in NAMES if fans(getattr(module, name, None)) is not None), None)
        size = _head_size(module)
        if out is None or size is None:
            continue
        fan_in, _ = fans(getattr(module, out)) or (0, 0)
        if size and fan_in % size == 0:
            where = f"{path}.{out}" if path else out
            layer, reachable = layer_of(where, modules), structure.reachable(where)
            yield Site(where, component, "head", layer, fan_in // size, reachable, side="input", group=size)


def _head_size(module: Any) -> int | None:
    for name in ("head_dim", "head_size", "attention_head_size"):
        if isinstance(getattr(module, name, None), int):
            return getattr(module, name)
    return None
