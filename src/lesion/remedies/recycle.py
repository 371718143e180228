"""Splitting critical units without making the model larger: copies take the places of the least important units of their layer.

What those units wrote is lost, so the function is another one, and what that costs is measured. A unit's importance is the mean
magnitude of its value, times the length of its column in the out-projection: how much it writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.errors import OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Sites
from lesion.models.feedforward import FeedForward
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.checkpoint import Asked
from lesion.remedies.remedy import Change
from lesion.remedies.split import COPIES, Split, copies, parent_of, plain_networks, units_of
from lesion.scoring.score import out_norms, score

if TYPE_CHECKING:
    from torch import nn

BATCH = 8
"""Samples at a time."""
MEASURE = "activation"
"""The scorer: mean magnitude."""


@dataclass(frozen=True)
class Recycled(Change):
    """Units that were split into the places of others.

    Attributes:
        split: Which were.
        times: Into how many each.
        taken: Path of a network -> the units whose places were taken: for each split unit in order, ``times - 1`` of them.
    """

    remedy = "recycle"
    exact = False
    split: NeuronSet
    times: int
    taken: Mapping[str, Sequence[int]]

    def as_dict(self) -> dict[str, Any]:
        taken = {path: list(places) for path, places in self.taken.items()}
        return {"split": len(self.split), "times": self.times, "taken": taken}

    def sets(self, sites: Sites) -> dict[str, NeuronSet]:
        return {COPIES: copies(self.split, self.times, sites, self.taken)}

    @property
    def title(self) -> str:
        return f"{len(self.split):,} units split into {self.times}, in the places of others"

    @property
    def summary(self) -> str:
        count = sum(map(len, self.taken.values()))
        return f"{len(self.split):,} units split into {self.times} each, in the places of the {count:,} that write least"

    @property
    def done(self) -> str:
        return (
            f"in which lesion gave each of these units of its feed-forward networks {self.times - 1} copies, and divided what\n"
            "it writes among them. The copies took the places of the units that write least in their layers."
        )

    @property
    def otherwise(self) -> str:
        return "What the units wrote whose places were taken is lost."


class Recycle(Split):
    """Makes several of each unit, in the places of others."""

    def apply(self, vlm: VisionLanguageModel, neurons: NeuronSet, asked: Asked) -> Recycled:
        """Splits units of a model in place.

        Args:
            vlm: The model.
            neurons: Units, as :func:`lesion.remedies.split.split` takes them.
            asked: On its first half it is seen which units write least.

        Raises:
            OptionError: The neurons are no such units, or a layer has not so many others.
            ModelError: The model is built otherwise; nothing was changed.
        """
        self.check()
        units = units_of(neurons)
        found = {network.parent: network for network in plain_networks(vlm.model, units)}
        least, taken = _least(vlm, asked.halves()[0], [found[path] for path in units]), dict[str, Sequence[int]]()
        for path, members in units.items():
            others, wanted = [i for i in least[path] if i not in members], (self.times - 1) * len(members)
            if len(others) < wanted:
                raise OptionError(f"{path} has {len(others)} other units, and {wanted} places are needed; split fewer")
            taken[path] = others[:wanted]
        for path, members in units.items():
            _copy(vlm.model, found[path], members, taken[path], self.times)
        return Recycled(neurons, self.times, taken)


def _least(vlm: VisionLanguageModel, asked: Asked, found: Sequence[FeedForward]) -> dict[str, list[int]]:
    """Path of each network -> its units, the one that writes least first."""
    paths = {network.parent for network in found}
    sites = Sites(site for site in vlm.sites if site.role == "hidden" and parent_of(site) in paths)
    prompts = [vlm.prompt(sample, asked.prompt) for sample in asked.samples]
    with vlm.prepared():
        answers = vlm.generate(vlm.embed(prompts), asked.max_new_tokens)
        magnitudes = score(vlm.model, sites, vlm.batches(prompts, answers, BATCH), MEASURE)[MEASURE]
    writes = {parent_of(s): magnitudes.values(s) * out_norms(vlm.model, s).detach().cpu().numpy() for s in sites}
    return {path: np.argsort(values, kind="stable").tolist() for path, values in writes.items()}


def _copy(model: nn.Module, network: FeedForward, units: Sequence[int], taken: Sequence[int], times: int) -> None:
    """Writes copies of some units over others."""
    import torch

    copied = [unit for unit in units for _ in range(times - 1)]
    with torch.no_grad():
        for name in network.names.all:
            layer: Any = model.get_submodule(network.path(name))
            if name == network.names.out:
                layer.weight[:, list(units)] /= times
                layer.weight[:, list(taken)] = layer.weight[:, copied]
                continue
            layer.weight[list(taken)] = layer.weight[copied]
            if layer.bias is not None:
                layer.bias[list(taken)] = layer.bias[copied]
