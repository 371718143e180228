"""How much more harm each neuron promises, with others masked already: the slope of the loss along which a set grows.

A ranking is made once, at the intact model, and from sizes: a neuron whose removal would *help* stands as high in it as one
whose removal harms as much. :func:`promised_rise` keeps the sign, and looks from where a set has been masked. Neurons that are
added in its order, with a new look after every few of them, raise the loss as fast as the first order can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.sites import Site, Sites
from lesion.models.handle import frozen
from lesion.scoring.gradients import backward

if TYPE_CHECKING:
    from torch import nn

    from lesion.scoring.registry import Pair, ScoringBatch


def promised_rise(
    model: nn.Module, sites: Sites, batches: Iterable[ScoringBatch], masked: AbstractContextManager[object]
) -> Mapping[Site, np.ndarray]:
    """By how much the summed loss rises, as far as the gradient can tell, when one more neuron becomes zero.

    Args:
        model: Any.
        sites: Where to look.
        batches: What is run.
        masked: Masks while it lasts.

    Returns:
        Site -> ``-sum over samples and tokens of gradient * activation``, float64 ``[width]``, in nats; a site that no gradient
        reached has none. Samples whose loss is not finite are left out.
    """
    found: list[dict[Site, np.ndarray]] = []

    def see(site: Site, pairs: list[Pair]) -> None:
        # Padding has no part in the loss, so that its gradient is zero.
        rises = [-(a * g).reshape(-1, site.width, site.group).sum((0, 2)).cpu().double().numpy() for a, g in pairs]
        found[-1][site] = sum(rises[1:], rises[0])

    with frozen(model), masked:
        for batch in batches:
            found.append({})
            backward(model, sites, batch, see)
    return summed(found)


def summed(parts: Iterable[Mapping[Site, np.ndarray]]) -> Mapping[Site, np.ndarray]:
    """What :func:`promised_rise` gives for batches, from what it gives for each, in their order."""
    sums: dict[Site, np.ndarray] = {}
    for part in parts:
        for site, rise in part.items():
            sums[site] = sums[site] + rise if site in sums else rise
    return sums
