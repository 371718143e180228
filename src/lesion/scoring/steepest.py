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
    import torch
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
    sums: dict[Site, torch.Tensor] = {}

    def see(site: Site, pairs: list[Pair]) -> None:
        for a, g in pairs:
            # Padding has no part in the loss, so that its gradient is zero.
            rise = -(a * g).reshape(-1, site.width, site.group).sum((0, 2)).cpu().double()
            sums[site] = sums[site] + rise if site in sums else rise

    with frozen(model), masked:
        for batch in batches:
            backward(model, sites, batch, see)
    return {site: total.numpy() for site, total in sums.items()}
