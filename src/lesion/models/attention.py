"""Attention heads as sites: the slice of an out-projection's input that one head wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lesion.core.sites import Site
from lesion.models.feedforward import fans
from lesion.models.structure import Structure, layer_of

if TYPE_CHECKING:
    from torch import nn

NAMES = ("o_proj", "out_proj", "c_proj", "proj", "dense", "projection", "projection_layer", "wo", "o")
"""What the out-projections of attention are called."""
BESIDE = "output.dense"
"""The out-projection of BERT's attention and the Q-Former's, which stands beside the module that attends."""
_INPUTS = ("q_proj", "qkv", "qkv_proj", "c_attn", "query_key_value", "query", "q", "Wqkv", "q_b_proj")
"""A module is attention when it holds one of these and an out-projection belongs to it."""
_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
"""Attributes that hold the number of heads: of queries, where keys and values have fewer."""
_SIZES = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim")
"""Attributes that hold the number of channels of a head."""


def heads(model: nn.Module, structure: Structure) -> Iterator[Site]:
    """Every attention head of a model whose number of heads can be read; other attention is passed over.

    A head's values are what it writes into the out-projection, ``[rows, tokens, heads * size]`` before the projection mixes
    them. Masking a head is masking its slice. Passed over are Florence-2's attention between channels, which has groups and
    no heads, and torch's own ``MultiheadAttention``, which never calls its out-projection as a module.

    Args:
        model: Nothing of it is run.
        structure: Which part of the tree is which component.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    for path, module in modules.items():
        component = structure.component_of(path)
        where = _out_projection(path, module, modules)
        if component is None or where is None:
            continue
        fan_in, _ = fans(modules[where]) or (0, 0)
        count = _head_count(module, fan_in)
        if count is not None:
            layer, reachable = layer_of(where, modules), structure.reachable(where)
            yield Site(where, component, "head", layer, count, reachable, side="input", group=fan_in // count)


def _out_projection(path: str, module: Any, modules: dict[str, Any]) -> str | None:
    """Path of the out-projection of a module that is attention; None for any other module."""
    if not any(hasattr(module, name) for name in _INPUTS):
        return None
    inside = [f"{path}.{name}" if path else name for name in NAMES]
    beside = f"{path.rpartition('.')[0]}.{BESIDE}"
    return next((name for name in (*inside, beside) if fans(modules.get(name)) is not None), None)


def _head_count(module: Any, fan_in: int) -> int | None:
    """The number of heads that a module says, or that its heads' size leads to; None where neither fits."""
    counts = [value for name in _COUNTS if isinstance(value := getattr(module, name, None), int)]
    sizes = [value for name in _SIZES if isinstance(value := getattr(module, name, None), int)]
    counts += [fan_in // size for size in sizes if size > 0 and fan_in % size == 0]
    return next((count for count in counts if count > 0 and fan_in % count == 0), None)
