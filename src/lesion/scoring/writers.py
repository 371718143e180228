"""Which neurons write a channel of the residual stream, and how strongly.

A unit writes its activation times its column of the out-projection, a ``down`` neuron its own value to its own channel. Units
that write one channel add up there before a norm divides by it, so that two of them can matter together where neither does
alone; :mod:`lesion.ablation.smallest` tries those first. The strength used is ``|W[channel, unit]|`` times the largest
``|activation|`` of the unit (the scorer ``superweight``). Where a norm stands between the out-projection and the stream
(Gemma 2 and 3), the order of the writers of a channel holds and the strength is not what arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.importance import Importance
from lesion.core.neurons import Neuron
from lesion.core.sites import Site
from lesion.models import experts, feedforward

if TYPE_CHECKING:
    import torch
    from torch import nn

Channel = tuple[str, int]
"""A component and a channel of its residual stream."""
EACH = 8
"""So many neurons of a site are listed as writers of a channel."""


@dataclass(frozen=True)
class Writer:
    """A neuron that writes a channel.

    Attributes:
        neuron: Which.
        strength: Of what it writes there.
    """

    neuron: Neuron
    strength: float


class Writers:
    """The strongest writers of each channel.

    Args:
        by_channel: Writers in any order.
    """

    def __init__(self, by_channel: dict[Channel, list[Writer]]) -> None:
        self._by_channel = {
            channel: sorted(found, key=lambda w: (-w.strength, w.neuron.site.order, w.neuron.index))
            for channel, found in by_channel.items()
        }

    def of(self, channel: Channel) -> list[Writer]:
        """The listed writers of a channel, the strongest first."""
        return self._by_channel.get(channel, [])

    def groups(self, size: int) -> list[list[Neuron]]:
        """Up to ``size`` writers of each channel that has two or more; the channel with the strongest second writer first.

        The second, since a channel with one strong writer is that neuron's own affair.
        """
        several = {channel: found for channel, found in self._by_channel.items() if len(found) > 1}
        ordered = sorted(several, key=lambda channel: (-several[channel][1].strength, channel))
        return [[w.neuron for w in several[channel][:size]] for channel in ordered]

    def channel_of(self, neuron: Neuron) -> Channel | None:
        """The channel that a neuron writes most; None where it is among the strongest writers of none."""
        own = [
            (w.strength, channel) for channel, found in self._by_channel.items() for w in found if w.neuron == neuron
        ]
        return max(own, default=(0.0, None))[1]


def writers(model: nn.Module, sites: Sequence[Site], peaks: Importance, each: int = EACH) -> Writers:
    """The strongest writers of each channel among the neurons of some sites.

    Args:
        model: In memory or offloaded.
        sites: Whose neurons are looked at.
        peaks: By the scorer ``superweight``; holds these sites, and the ``hidden`` sites of units that are gates or ups.
        each: So many neurons of a site are listed for a channel.
    """
    found: dict[Channel, list[Writer]] = {}
    units = {(s.path, s.expert): s for s in peaks.sites if s.role == "hidden"}
    for site in sites:
        unit = units.get((site.writes_through or "", site.expert), site)
        for channel, index, strength in _strongest(model, site, peaks.values(unit), each):
            found.setdefault((site.component, channel), []).append(Writer(Neuron(site, index), strength))
    return Writers(found)


def _strongest(model: nn.Module, site: Site, peaks: np.ndarray, each: int) -> Iterable[tuple[int, int, float]]:
    """Channel, index and strength of the strongest writers of each channel in a site."""
    import torch

    weight = out_weight(model, site)
    if weight is None:
        return [(i, i, float(peak)) for i, peak in enumerate(peaks)]
    size = weight.abs().unflatten(1, (site.width, site.group)).norm(dim=-1)
    strength, index = (size * torch.from_numpy(peaks).to(size)).topk(min(each, site.width), dim=1)
    pairs = zip(index.tolist(), strength.tolist(), strict=True)
    return [(c, i, s) for c, (row, values) in enumerate(pairs) for i, s in zip(row, values, strict=True)]


def out_weight(model: nn.Module, site: Site) -> torch.Tensor | None:
    """What each of a site's channels writes for a unit of its activation.

    Returns:
        float32 ``[written channels, channels]``; None for ``down`` neurons, which are what is written.
    """
    if site.writes_through is None:
        return None
    module: Any = model.get_submodule(site.writes_through)
    weight = feedforward.written(module) if site.expert is None else experts.written(module, site.expert)
    return weight[:, site.slice] if site.side == "input" else weight
