"""Splitting critical units: each becomes several that do the same, and each of which writes a share of what the one wrote.

A unit of a feed-forward network ``down(act(gate(x)) * up(x))`` is a row of ``gate`` and of ``up`` and a column of ``down``.
Copies of its rows give copies of its value; with ``1/R`` of its column each, R copies write what the unit wrote. The function
is the same but for rounding, and losing one of the copies takes away a share.

The configuration has one intermediate size for all layers, so every layer gets as many new units as the one that needs most;
those that nobody needs are zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site, Sites
from lesion.models.feedforward import FeedForward, networks
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.checkpoint import Asked
from lesion.remedies.remedy import Change

if TYPE_CHECKING:
    import torch
    from torch import nn

ROLES = ("gate", "up", "hidden")
"""Sites whose neurons are intermediate units."""
MULTIPLE = 8
"""The intermediate size grows by a multiple of this: kernels like round numbers."""
SIZE = "intermediate_size"
COPIES = "copies.json"
"""The set of all units that the split ones became, beside the checkpoint."""


@dataclass(frozen=True)
class SplitUnits(Change):
    """Units that were split.

    Attributes:
        split: Which.
        times: Into how many each.
        units: How many units each layer has more.
    """

    remedy = "split"
    split: NeuronSet
    times: int
    units: int

    def as_dict(self) -> dict[str, Any]:
        return {"split": len(self.split), "times": self.times, "units": self.units}

    def sets(self, sites: Sites) -> dict[str, NeuronSet]:
        return {COPIES: copies(self.split, self.times, sites)}

    @property
    def title(self) -> str:
        return f"{len(self.split):,} units split into {self.times}"

    @property
    def summary(self) -> str:
        return f"{self.title} each, {self.units:,} more units a layer"

    @property
    def done(self) -> str:
        return (
            f"in which lesion gave each of these units of its feed-forward networks {self.times - 1} copies, and divided what\n"
            "it writes among them."
        )

    @property
    def otherwise(self) -> str:
        return "All layers have the same number of new units; those that are no copies are zero."


@dataclass(frozen=True)
class Split:
    """Makes several of each unit.

    Attributes:
        times: How many.
    """

    times: int = 4

    def check(self) -> None:
        """Whether a unit can become so many.

        Raises:
            OptionError: Fewer than 2.
        """
        check_times(self.times)

    def apply(self, vlm: VisionLanguageModel, neurons: NeuronSet, asked: Asked) -> Change:
        """Splits units; errors as for :func:`split`."""
        return SplitUnits(neurons, self.times, split(vlm.model, neurons, self.times))


def split(model: nn.Module, neurons: NeuronSet, times: int) -> int:
    """Splits intermediate units of the language model in place.

    Args:
        model: Any whose language model has feed-forward networks of one size, made of plain linear layers.
        neurons: Which units; of ``gate``, ``up`` or ``hidden`` sites.
        times: How many a unit becomes.

    Returns:
        How many units each layer has more.

    Raises:
        OptionError: ``times`` is below 2, or a neuron is no intermediate unit of the language model.
        ModelError: The model is built otherwise; nothing was changed.
    """
    check_times(times)
    units = units_of(neurons)
    found = plain_networks(model, units)
    more = max((times - 1) * len(members) for members in units.values())
    more = -(-more // MULTIPLE) * MULTIPLE
    config: Any = model.config
    text = config.get_text_config()
    for network in found:
        _widen(model, network, units.get(network.parent, ()), times, more)
    setattr(text, SIZE, getattr(text, SIZE) + more)
    return more


def copies(
    neurons: NeuronSet, times: int, sites: Sites, taken: Mapping[str, Sequence[int]] | None = None
) -> NeuronSet:
    """All units that some became: they themselves, and what was made of them.

    Args:
        neurons: Units of the model as it was.
        times: How many each became.
        sites: Of the model as it is.
        taken: Path of a network -> where its copies are, ``times - 1`` for each unit in order; default: behind all others.
    """
    found: dict[Site, np.ndarray] = {}
    units = units_of(neurons)
    for site in neurons.sites:
        path = parent_of(site)
        places = range(site.width, site.width + (times - 1) * len(units[path])) if taken is None else taken[path]
        starts = [units[path].index(i) * (times - 1) for i in neurons.indices(site).tolist()]
        new = [places[start + copy] for start in starts for copy in range(times - 1)]
        now = sites.get(site.key)
        assert now is not None
        found[now] = np.array([*neurons.indices(site).tolist(), *new])
    return NeuronSet.from_arrays(found)


def check_times(times: int) -> None:
    """Whether a unit can become so many.

    Raises:
        OptionError: Fewer than 2.
    """
    if times < 2:
        raise OptionError(f"split is {times}; expected at least 2")


def units_of(neurons: NeuronSet) -> dict[str, list[int]]:
    """Path of each network -> its units, sorted.

    Raises:
        OptionError: A neuron is no intermediate unit of the language model.
    """
    units: dict[str, set[int]] = {}
    for site in neurons.sites:
        if site.role not in ROLES or site.component != "language" or site.expert is not None:
            raise OptionError(
                f"{site.key} holds no intermediate units of the language model; expected neurons of gate, up or hidden"
            )
        units.setdefault(parent_of(site), set()).update(neurons.indices(site).tolist())
    return {path: sorted(members) for path, members in units.items()}


def parent_of(site: Site) -> str:
    """Path of a site's network."""
    return site.path.rpartition(".")[0]


def plain_networks(model: nn.Module, units: Mapping[str, Sequence[int]]) -> list[FeedForward]:
    """The networks that share the configuration's size: those of the language model.

    Raises:
        ModelError: They are built otherwise, or some units' network is not among them.
    """
    from torch import nn

    modules: dict[str, Any] = dict(model.named_modules())
    config: Any = model.config
    text = config.get_text_config()
    size = getattr(text, SIZE, None)
    if not isinstance(size, int):
        raise ModelError(f"the language model's configuration has no {SIZE}; its units cannot be split")
    every = {network.parent: network for network in networks(modules)}
    missing = [path for path in units if path not in every]
    if missing:
        raise ModelError(f"no feed-forward network at {missing[0]}; is the set from another model?")
    stem = next(iter(units)).split(".layers.")[0]
    found = [network for path, network in every.items() if path.startswith(f"{stem}.layers.")]
    for network in found:
        layers = [modules[network.path(name)] for name in network.names.all]
        plain = all(type(layer) is nn.Linear and layer.weight.is_floating_point() for layer in layers)
        if not plain or any(layer.weight.is_meta for layer in layers) or network.names.fused or network.hidden != size:
            raise ModelError(
                f"{network.parent} is not made of plain linear layers of {size} units in memory; its units cannot be split"
            )
    return found


def _widen(model: nn.Module, network: FeedForward, units: Sequence[int], times: int, more: int) -> None:
    """Gives a network more units: copies of some, and zeros."""
    import torch

    names = network.names
    with torch.no_grad():
        for name in names.all:
            layer: Any = model.get_submodule(network.path(name))
            if name == names.out:
                weight = layer.weight.clone()
                weight[:, list(units)] /= times
                copies = weight[:, [unit for unit in units for _ in range(times - 1)]]
                layer.weight = _grown(weight, copies, more, 1)
                layer.in_features += more
                continue
            copied = [unit for unit in units for _ in range(times - 1)]
            for part in ("weight", "bias"):
                value = getattr(layer, part)
                if value is not None:
                    setattr(layer, part, _grown(value, value[copied], more, 0))
            layer.out_features += more


def _grown(value: torch.Tensor, copies: torch.Tensor, more: int, dim: int) -> nn.Parameter:
    """A parameter with copies and zeros behind."""
    import torch
    from torch import nn

    shape = list(value.shape)
    shape[dim] = more - copies.shape[dim]
    return nn.Parameter(torch.cat([value, copies, value.new_zeros(shape)], dim), requires_grad=value.requires_grad)
