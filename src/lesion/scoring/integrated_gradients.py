"""Integrated gradients (Sundararajan et al., arXiv 1703.01365, equation 1) along the path from masked to intact neurons.

A gradient at the intact model alone is blind where the loss saturates: where a model still works with half of a neuron's
value, and breaks without it. Here a site's neurons are multiplied by t = 0 ... 1, and the gradient is averaged on the way::

    IG_j = sum over tokens of  mean over steps s of  a_j(t_s) * dL/d(t_s a_j),    t_s = (s - 1/2) / steps

The score is ``|IG_j|``. With the path ``layer`` one site at a time is scaled and the rest of the model is intact, so ``a_j`` is
the intact activation, and all IG of a site add up to L(intact) - L(site masked) as the steps grow (completeness). With
``all`` every scored site is scaled at once, ``a_j(t)`` is what the neuron is with the sites before it scaled, and all IG
together add up to L(intact) - L(all sites masked). It is IG in the neurons' factors, whose derivative is ``a_j dL/d(t a_j)``.

``layer`` takes ``steps`` forward and backward passes for each site, ``all`` takes ``steps`` in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from lesion.core.sites import Site, Sites
from lesion.hooks.attach import SiteHook, attached
from lesion.scoring.gradients import backward
from lesion.scoring.options import ScoreOptions
from lesion.scoring.registry import aggregate, register

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lesion.scoring.gradients import See
    from lesion.scoring.registry import Pair, ScoringBatch


@register("integrated-gradients", "positions", "ig_steps", "ig_path", needs="path")
def _integrated_gradients(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """|gradient * activation, averaged while the site is masked step by step|: integrated gradients (arXiv 1703.01365)."""
    return aggregate(g * a, tokens, "sum")  # signed: the steps are averaged before the size is taken


def along_path(model: nn.Module, sites: Sites, batch: ScoringBatch, options: ScoreOptions, see: See) -> torch.Tensor:
    """Runs the passes of a path.

    Args:
        model: Frozen.
        sites: What is scaled and seen; the unreachable ones are not.
        batch: What is run.
        options: Their ``ig_steps`` and ``ig_path``.
        see: Called at each step with a site, its unscaled activations, and the loss's gradient with respect to the scaled ones.

    Returns:
        Which rows have a finite loss at every step, bool ``[rows]``.
    """
    import torch

    usable: list[torch.Tensor] = []
    for group in _groups(sites, options):
        for step in range(options.ig_steps):
            factor = (step + 0.5) / options.ig_steps

            def unscaled(site: Site, pairs: list[Pair], factor: float = factor) -> None:
                see(site, [(a / factor, g) for a, g in pairs])

            usable.append(backward(model, group, batch, unscaled, before=_scaled(model, group, factor)))
    return torch.stack(usable).all(0) if usable else torch.ones(len(batch), dtype=torch.bool)


def _groups(sites: Sites, options: ScoreOptions) -> Iterator[Sequence[Site]]:
    """What is scaled together."""
    reachable = [site for site in sites if site.reachable]
    if options.ig_path == "layer":
        yield from ([site] for site in reachable)
    elif reachable:
        yield reachable


def _scaled(model: nn.Module, sites: Sequence[Site], factor: float) -> AbstractContextManager[None]:
    """Multiplies the sites' neurons while the context lasts."""

    def scale(site: Site) -> SiteHook:
        def on(x: torch.Tensor, _: object) -> torch.Tensor:
            if x.shape[-1] == site.width * site.group:
                return x * factor
            factors = x.new_ones(x.shape[-1])
            factors[site.slice] = factor
            return x * factors

        return on

    return attached(model, [(site, scale(site)) for site in sites])
