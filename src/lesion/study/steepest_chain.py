"""The steepest :class:`Chain`: neurons in the order in which a set grows along the gradient, looked at anew as it grows.

With a set masked, the neurons are added of which the gradient promises the highest loss; one, then one more, then half as many
again as there are, with a new gradient each time (:mod:`lesion.scoring.steepest`). It ends :data:`SPARE` steps behind the first
at which the model has collapsed, since on other samples a little more may be needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lesion.ablation.ground import request_dict
from lesion.ablation.measure import Ablation
from lesion.ablation.units import Request
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site, Sites
from lesion.hooks.intervene import mask
from lesion.scoring.pooled import pooled_rise
from lesion.scoring.steepest import promised_rise
from lesion.study.session import Session

COST = 3
"""A forward and a backward pass take about as long as so many sets whose answers are read."""
GROWTH = 1.5
"""A set grows by half between two gradients."""


SPARE = 3
"""So many steps of the chain collapse the model."""


@dataclass(frozen=True)
class Chain:
    """An order of neurons.

    Attributes:
        neurons: The first to be masked first; none where masks are not zero at every token: of others no gradient is taken.
        passes: How many gradients it took.
        sets: How many sets were measured to see whether the model had collapsed.
    """

    neurons: Sequence[Neuron] = ()
    passes: int = 0
    sets: int = 0

    @property
    def cost(self) -> int:
        """In sets that could have been measured instead."""
        return COST * self.passes + self.sets


def steepest_chain(session: Session, ablation: Ablation, budget: int) -> Chain:
    """Grows a set along the gradient, on the samples that are ranked on.

    Args:
        session: Open.
        ablation: Masks on these samples.
        budget: So many sets at most, a gradient counting as :data:`COST`.
    """
    options = session.options
    if (options.mask, options.mask_positions) != ("zero", "all"):
        return Chain()
    chain: list[Neuron] = []
    rounds, most, spare = 0, budget // (COST + 1), SPARE
    with session.progress.stage("the steepest chain", most) as advance:
        while rounds < most and spare and len(chain) < session.sites.neurons:
            chain += _next(session, NeuronSet(chain), max(1, int((GROWTH - 1) * len(chain))))
            rounds += 1
            spare -= ablation.collapses([NeuronSet(chain)])[0]
            advance(1)
    return Chain(chain, rounds, rounds)


def _rises(session: Session, sites: Sites, request: Request) -> Mapping[Site, np.ndarray]:
    """What more neurons promise under a mask, on the samples that are ranked on."""
    ids = [s.id for s in session.ranked]
    if session.executor is not None:
        ground = session.executor.share(session.ground(ids).pack())
        return pooled_rise(session.executor, ground, session.batches(len(ids)), sites, request_dict(request))
    prompts, targets = [session.prompts[id] for id in ids], [session.targets[id] for id in ids]
    batches = session.vlm.batches(prompts, targets, session.options.batch_size)
    model = session.vlm.model
    return promised_rise(model, sites, batches, mask(model, request.neurons, request.intervention))


def _next(session: Session, masked: NeuronSet, count: int) -> list[Neuron]:
    """The neurons that promise most, with others masked."""
    sites = Sites(s for s in session.sites if s.reachable)
    rises = _rises(session, sites, Request(masked, session.options.intervention()))
    values = np.concatenate([rises.get(site, np.zeros(site.width)) for site in sites])
    owner = np.repeat(np.arange(len(sites)), [site.width for site in sites])
    index = np.concatenate([np.arange(site.width) for site in sites])
    taken = np.concatenate([np.isin(np.arange(s.width), masked.indices(s)) for s in sites])
    order = np.lexsort((index, owner, -np.where(taken, -np.inf, values)))[: min(count, int((~taken).sum()))]
    return [Neuron(sites[int(owner[i])], int(index[i])) for i in order]
