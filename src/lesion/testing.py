"""Planting: makes a model depend on chosen neurons, so that a ranking can be measured against a known truth.

:func:`plant` edits weights and needs no data; :func:`recall` says how many of the planted neurons a ranking found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lesion.core.errors import ModelError, NeuronSetError, OptionError
from lesion.core.sites import ROLES
from lesion.models.discovery import discover
from lesion.models.feedforward import columns, fans

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lesion.core.neurons import NeuronSet
    from lesion.core.ranking import Ranking
    from lesion.core.sites import Site, Sites


@dataclass(frozen=True)
class _Matrix:
    """One out-projection, turned so that a neuron of the planted kind is a column.

    Attributes:
        weight: ``[fan-out, fan-in]`` for units, ``[fan-in, fan-out]`` for channels; a view, not a copy.
        bias: One entry a channel; None for units, and where there is none.
        planted: Indices of the planted columns.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    planted: list[int]


def plant(model: nn.Module, neurons: NeuronSet, strength: float = 1000.0) -> None:
    """Makes a model depend on some neurons more than on all others of their component, by its out-projections alone.

    The planted neurons take the place of all others. A ``gate``, ``up`` or ``hidden`` neuron writes through one column of an
    out-projection; a ``down`` neuron is one row of it, and one entry of its bias. Of every out-projection of the component:

    * the columns (or rows, whichever kind is planted) of all other neurons are divided by ``strength``;
    * those of the planted neurons are multiplied by one number a matrix, so that it keeps its Frobenius norm: about
      ``sqrt(m / p)`` for p planted among m neurons of like norms, whatever ``strength`` is.

    Nothing else is changed: no in-projection, no other component, no bias when units are planted. The norm must be kept: a
    neuron that is only made larger comes to dominate the residual stream; the next norm then divides by it, no gradient is
    left along it, and scorers that use the gradient rank it low although the model depends on it.

    It is made for randomly initialised models. In 24 of 25 families CAN, Taylor and Wanda-like find all of three neurons that
    are planted in the language model, in every draw, and in all of 19 those in the vision part;
    docs/adding-a-family.md has the figures. What does not hold:

    * Scorers that read activations alone find ``down`` neurons, and are at chance for units, whose activations stay as they
      were. The gradient alone finds units, and is at chance for ``down``.
    * A unit that is off (ReLU) at every token that matters is not made critical by what it would write.
    * Where a norm stands between the out-projection and the residual stream (Gemma 2 and 3, OLMo 2), it undoes the weakening
      of layers in which nothing is planted: of Gemma 3's planted neurons CAN finds two thirds to three quarters.
    * The units of a connector saturate, since an image token is what they write and nothing else: where one of them writes
      nearly all of it, the next norm takes its size away. CAN finds two thirds of those planted in LLaVA's.
    * A trained model can rest on neurons that planting takes away (the seeded ones of tiny-llava): CAN then finds few.

    The gate, up and hidden neuron of one index are one unit: whichever of them is planted, each stands out among its own
    role.

    Args:
        model: Edited in place; take a copy first to keep the intact one. Planting twice multiplies.
        neurons: The truth: reachable neurons of this model. Units and ``down`` neurons of one component can be planted
            together in the same out-projections only: a unit makes all channels of its layer important, and a channel all
            units, so that in different layers neither could be told from the neurons that serve the other.
        strength: How many times less all other neurons write for each unit of activation, above 1. At 10, CAN misses
            almost one in five of the planted neurons; at 1000, none.

    Raises:
        OptionError: ``strength`` is not a number above 1, or a site cannot reach the answer or is of no feed-forward network
            (attention heads).
        NeuronSetError: No neuron, a site that the model does not have, units and ``down`` neurons in different
            out-projections, or neurons that write nothing since their weights are zero.
        ModelError: An out-projection is no linear layer with floating-point weights in memory (quantised, offloaded, a bare
            parameter, experts), or lesion does not know the model.
    """
    import torch

    if not (math.isfinite(strength) and strength > 1):
        raise OptionError(f"strength is {strength}; expected a number above 1, by which all other neurons are weakened")
    if not len(neurons):
        raise NeuronSetError("there are no neurons to plant; expected at least one")
    sites = discover(model)
    neurons = neurons.fit(sites)
    for site in neurons.sites:
        if site.role not in ROLES:
            raise OptionError(f"{site.key} is not of a feed-forward network; planted are {', '.join(ROLES)} neurons")
        if not site.reachable:
            raise OptionError(f"{site.key} cannot reach the model's answer, so that nothing can depend on its neurons")
    with torch.no_grad():
        # All matrices are checked before the first is edited, so that an error leaves the model as it was.
        for matrix in list(_matrices(model, sites, neurons)):
            _take_over(matrix, strength)


def recall(ranking: Ranking, neurons: NeuronSet) -> float:
    """The share of the given neurons that is among as many top-ranked ones, 0 to 1.

    Raises:
        NeuronSetError: None are given, or one of them is not ranked at all (another role, say).
    """
    if not len(neurons):
        raise NeuronSetError("there are no neurons to find; expected at least one")
    for neuron in neurons:
        if ranking.rank_of(neuron) is None:
            raise NeuronSetError(f"{neuron} is not among the ranked sites")
    return len(ranking.top(len(neurons)) & neurons) / len(neurons)


def _matrices(model: nn.Module, sites: Sites, neurons: NeuronSet) -> Iterator[_Matrix]:
    """Every out-projection of the planted components, once for each kind of neuron that is planted there."""
    for component in dict.fromkeys(site.component for site in neurons.sites):
        units, channels = _planted(neurons, component, False), _planted(neurons, component, True)
        if units and channels and units.keys() != channels.keys():
            raise NeuronSetError(
                f"units are planted in {', '.join(units)} and down neurons in {', '.join(channels)}; plant both in the same "
                "out-projections, or one kind only"
            )
        for kind, is_down in ((units, False), (channels, True)):
            mine = [site for site in sites.select(component) if (site.role == "down") == is_down] if kind else []
            for path in dict.fromkeys(_out(site) for site in mine):
                yield _matrix(model, path, sorted(kind.get(path, ())), is_down)


def _planted(neurons: NeuronSet, component: str, is_down: bool) -> dict[str, set[int]]:
    """Path of an out-projection -> the units, or the channels, that are planted in it."""
    by_path: dict[str, set[int]] = {}
    for neuron in neurons:
        if neuron.site.component == component and (neuron.site.role == "down") == is_down:
            by_path.setdefault(_out(neuron.site), set()).add(neuron.index)
    return by_path


def _out(site: Site) -> str:
    """Path of the out-projection that a neuron writes through, or is a row of."""
    return site.writes_through or site.path


def _matrix(model: nn.Module, path: str, planted: list[int], is_down: bool) -> _Matrix:
    module = model.get_submodule(path)
    weight = getattr(module, "weight", None)
    fits = fans(module) is not None and weight is not None and weight.is_floating_point() and weight.dtype.itemsize > 1
    if weight is None or not fits or weight.device.type == "meta":
        raise ModelError(
            f"{path} ({type(module).__name__}) is no linear layer with weights of 16 bits or more in memory; its "
            "neurons cannot be planted"
        )
    weight, bias = columns(module, weight), getattr(module, "bias", None)
    matrix = _Matrix(weight.T, bias, planted) if is_down else _Matrix(weight, None, planted)
    if not matrix.weight[:, planted].any(dim=0).all():
        raise NeuronSetError(f"{path}: the weights of a planted neuron are all zero; there is nothing to strengthen")
    return matrix


def _take_over(matrix: _Matrix, strength: float) -> None:
    """Weakens all columns but the planted ones, which then make up for what is lost of the Frobenius norm."""
    import torch

    squares = matrix.weight.float().pow(2).sum(0)
    factors = torch.full_like(squares, 1 / strength)
    if matrix.planted:
        kept = squares[matrix.planted].sum()
        factors[matrix.planted] = ((squares.sum() - (squares.sum() - kept) / strength**2) / kept).sqrt()
    matrix.weight.mul_(factors)
    if matrix.bias is not None:
        matrix.bias.mul_(factors)
