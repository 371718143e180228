"""Rounding of a language model's linear layers, with some weights left as they are: what a quantiser that keeps them would do.

Weights are rounded to the nearest of ``2 ** bits - 1`` values that lie evenly around zero, ``q * max / (2 ** (bits - 1) - 1)``,
where ``max`` is the largest magnitude of a row, of a group of inputs of a row, or of the whole matrix (absmax, symmetric, to
the nearest; ties to even). They stay floating-point numbers: this says what rounding does to the answers, and saves no memory.

A weight that is kept has its own value. It may still be *counted* in its block's maximum; or it is left out of that too, and
then the others of its block are rounded more finely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.hooks.edit import WeightEdit
from lesion.models.feedforward import FeedForward, columns, fans, networks
from lesion.models.structure import Structure

if TYPE_CHECKING:
    import torch
    from torch import nn

By = Literal["row", "group", "tensor"]
BITS, BLOCKS = (8, 4, 3), ("row", "group", "tensor")
Kept = Mapping[str, "torch.Tensor"]
"""Path of a linear layer -> which of its weights are kept, bool ``[fan-out, fan-in]``."""


def rounded(
    weight: torch.Tensor, bits: int, by: By = "row", group: int = 64, keep: torch.Tensor | None = None, counted: bool = False
) -> torch.Tensor:
    """A matrix, rounded.

    The largest of a block is one of its values, so a matrix that is rounded already comes back bit by bit. No weight moves by
    more than half a step, ``max / (2 ** bits - 2)``, and half a unit in the last place of its dtype.

    Args:
        weight: ``[fan-out, fan-in]``, finite.
        bits: One of :data:`BITS`.
        by: What shares a scale: a row, ``group`` neighbouring inputs of a row, or all.
        group: Size of a group; it must divide the fan-in.
        keep: Which weights keep their value, bool, of the same shape; None for none.
        counted: Whether those still count in their block's maximum.

    Returns:
        Of the same shape and dtype; the argument is left as it was.

    Raises:
        OptionError: Unknown bits or blocks, or groups that do not fit.
    """
    import torch

    check(bits, by, group, weight.shape[1])
    # In float64 the products below are exact, and only the last division rounds.
    exact = weight.to(torch.float64)
    blocks = _blocks(exact, by, group)
    sized = blocks if keep is None or counted else blocks.masked_fill(_blocks(keep, by, group), 0.0)
    most, steps = sized.abs().amax(1, keepdim=True), 2 ** (bits - 1) - 1
    # A block of zeros, or of which all is kept, has no step: what is left of it is zero.
    levels = torch.where(most > 0, blocks * steps / most, 0.0).round().clamp(-steps, steps)
    made = (levels * most / steps).reshape(weight.shape).to(weight.dtype)
    return made if keep is None else torch.where(keep, weight, made)


def check(bits: int, by: str, group: int, inputs: int) -> None:
    """Whether a layer can be rounded so.

    Raises:
        OptionError: It cannot.
    """
    if bits not in BITS:
        raise OptionError(f"bits is {bits}; expected one of {', '.join(map(str, BITS))}")
    if by not in BLOCKS:
        raise OptionError(f"weights are rounded by {by!r}; expected one of {', '.join(BLOCKS)}")
    if by == "group" and (group < 1 or inputs % group):
        raise OptionError(f"groups of {group} do not divide {inputs} inputs; expected a size that does, such as 64")


def _blocks(matrix: torch.Tensor, by: By, group: int) -> torch.Tensor:
    """The matrix with a block a row."""
    return matrix.reshape({"row": (len(matrix), -1), "group": (-1, group), "tensor": (1, -1)}[by])


@dataclass(frozen=True, eq=False)
class Rounding(WeightEdit):
    """Rounds linear layers of the language model; not its embeddings, its output head, biases and norms.

    Attributes:
        bits, by, group, counted: As for :func:`rounded`.
        keep: What keeps its value; see :func:`kept`, :func:`entries` and :func:`largest`.
        only: Paths of the layers; None for all (:func:`layers`).
    """

    bits: int
    by: By = "row"
    group: int = 64
    keep: Kept = field(default_factory=dict)
    counted: bool = False
    only: tuple[str, ...] | None = None

    @property
    def id(self) -> str:
        by = f"{self.by} of {self.group}" if self.by == "group" else self.by
        where = "all linear layers" if self.only is None else f"{len(self.only)} linear layers"
        count = sum(int(mask.sum()) for mask in self.keep.values())
        scale = "counted in" if self.counted else "left out of"
        keeping = f", {count} weights kept and {scale} the scale" if count else ""
        return f"{where} rounded to {self.bits} bits by {by}{keeping}"

    def parts(self, model: nn.Module) -> Iterator[torch.Tensor]:
        found = layers(model)
        for path in (*(self.only or ()), *self.keep):
            if path not in found:
                raise ModelError(f"{path} is no linear layer of the language model, of which there are {len(found)}")
        for path in found if self.only is None else self.only:
            weight, mask = found[path], self.keep.get(path)
            check(self.bits, self.by, self.group, weight.shape[1])
            if mask is not None and mask.shape != weight.shape:
                raise OptionError(f"{path} has weights {tuple(weight.shape)}; those to keep are {tuple(mask.shape)}")
            yield weight

    def apply(self, model: nn.Module) -> None:
        found = layers(model)
        for path in found if self.only is None else self.only:
            weight, mask = found[path], self.keep.get(path)
            mask = None if mask is None else mask.to(weight.device)
            weight.copy_(rounded(weight, self.bits, self.by, self.group, mask, self.counted))


def layers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Path -> weights of every linear layer of the language model, views ``[fan-out, fan-in]``; without the output head.

    Raises:
        ModelError: One is offloaded or quantised.
    """
    structure = Structure.of(model)
    found: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        if fans(module) is None or structure.component_of(path) != "language":
            continue
        weight: Any = getattr(module, "weight", None)
        if weight is None or weight.is_meta or not weight.is_floating_point():
            raise ModelError(f"{path} is offloaded or quantised; expected floating-point weights in memory")
        found[path] = columns(module, weight.detach())
    return found


# -- what is kept ----------------------------------------------------------------------------------------------------------
def kept(model: nn.Module, neurons: NeuronSet) -> dict[str, torch.Tensor]:
    """The weights that neurons of the language model are made of.

    A ``down`` neuron is a row of its out-projection. An intermediate unit (``gate``, ``up``, ``hidden``) is a column of the
    out-projection and a row of each in-projection, whichever role it is named by.

    Raises:
        OptionError: A neuron is none of a feed-forward network of the language model.
    """
    every: dict[str, Any] = {network.parent: network for network in networks(dict(model.named_modules()))}
    found = layers(model)
    masks: dict[str, torch.Tensor] = {}
    for site in neurons.sites:
        network: FeedForward | None = next((n for n in every.values() if site.path in map(n.path, n.names.all)), None)
        if network is None or site.component != "language" or site.role == "head":
            raise OptionError(
                f"{site.key} is no site of a feed-forward network of the language model; expected gate, up, hidden or down"
            )
        members, names = neurons.indices(site), network.names
        out = network.path(names.out)
        if site.role == "down":
            _mask(masks, found, out)[members] = True
            continue
        _mask(masks, found, out)[:, members] = True
        for name in (names.gate, names.up):
            if name is not None:
                mask = _mask(masks, found, network.path(name))
                mask[members] = True
                if names.fused:  # the second half of the rows is the other in-projection
                    mask[members + network.hidden] = True
    return masks


def entries(model: nn.Module, places: Iterable[tuple[str, int, int]]) -> dict[str, torch.Tensor]:
    """Single weights.

    Args:
        model: The model.
        places: Path of a layer, row (output), column (input).

    Raises:
        OptionError: No linear layer of the language model has such a weight.
    """
    found = layers(model)
    masks: dict[str, torch.Tensor] = {}
    for path, row, column in places:
        if path not in found or not (0 <= row < found[path].shape[0] and 0 <= column < found[path].shape[1]):
            raise OptionError(f"no linear layer of the language model has a weight {path}[{row}, {column}]")
        _mask(masks, found, path)[row, column] = True
    return masks


def largest(model: nn.Module, count: int) -> dict[str, torch.Tensor]:
    """The weights of largest magnitude in all linear layers of the language model; of equal ones the first.

    Raises:
        OptionError: There are fewer.
    """
    import torch

    found = layers(model)
    total = sum(weight.numel() for weight in found.values())
    if not 0 <= count <= total:
        raise OptionError(f"count is {count}; the language model has {total:,} weights in linear layers")
    # Nothing below the count-th of any single layer can be among them, so that few need to be sorted together.
    flat = [weight.abs().flatten() for weight in found.values()]
    least = max((f.topk(count).values[-1].item() for f in flat if 0 < count <= len(f)), default=0.0)
    near = [(f >= least).nonzero().flatten() for f in flat]
    sizes = torch.cat([f[n].float() for f, n in zip(flat, near, strict=True)])
    order = sizes.sort(descending=True, stable=True).indices[:count]
    masks: dict[str, torch.Tensor] = {}
    start = 0
    for path, indices in zip(found, near, strict=True):
        chosen = indices[order[(order >= start) & (order < start + len(indices))] - start]
        start += len(indices)
        if len(chosen):
            _mask(masks, found, path).view(-1)[chosen] = True
    return masks


def _mask(masks: dict[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: str) -> torch.Tensor:
    """A layer's mask, made where there is none yet."""
    import torch

    if path not in masks:
        masks[path] = torch.zeros(found[path].shape, dtype=torch.bool, device=found[path].device)
    return masks[path]
