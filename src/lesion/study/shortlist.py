"""The :class:`Shortlist` of a measured search: the neurons that sets are made of, and who writes which channel.

It is the union of the first of several rankings, which fail differently: the study's own, CAN, activation, Taylor, activation
times the norm of what is written (``wanda``), the largest activation (``superweight``), integrated gradients, the strongest
writers of each channel, published coordinates of the model, and the steepest chain. They take turns, each giving its next
neuron, until the list is full. What was seeded in an embedded model is not asked: there the search has to find it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest

from lesion.core.importance import Importance
from lesion.core.neurons import Neuron
from lesion.core.ranking import Ranking
from lesion.scoring.scorers import get_scorer
from lesion.scoring.writers import Writers, writers
from lesion.study import rundir
from lesion.study.importances import importances as score_all
from lesion.study.published import SEEDED, truth_of
from lesion.study.session import Session

INTEGRATED = "integrated-gradients"
SCORERS = ("can", "activation", "taylor", "wanda", "superweight", INTEGRATED)
"""What gives the list its neurons beside the study's own ranking."""
PEAKS = "superweight"
"""The scorer by which what is written to a channel is sized."""
GROUP = 3
"""So many writers of a channel are candidates."""


@dataclass(frozen=True)
class Shortlist:
    """What a measured search is made of.

    Attributes:
        neurons: The likeliest first.
        chains: Orders whose beginnings may collapse the model: the steepest chain, integrated gradients, the study's ranking.
        writers: Of each channel.
        passes: Forward and backward passes that integrated gradients took.
    """

    neurons: Sequence[Neuron]
    chains: Sequence[Sequence[Neuron]]
    writers: Writers
    passes: int = 0

    @property
    def groups(self) -> list[list[Neuron]]:
        """Neurons of the list that write one channel, the strongest first."""
        return self.writers.groups(GROUP)


def shortlist(
    session: Session,
    ranking: Ranking,
    importances: Mapping[str, Importance],
    size: int,
    chain: Sequence[Neuron] = (),
    passes: int = 0,
) -> Shortlist:
    """Makes the list, scoring on the samples that are ranked on what the study has not scored.

    Args:
        session: Open.
        ranking: The study's own.
        importances: By scorer, what it has scored.
        size: So many neurons.
        chain: One more order (:mod:`lesion.study.steepest_chain`).
        passes: So many may be taken for integrated gradients along one site at a time; where they are not enough, all sites
            are scaled at once, and where that takes more too, they are left out.
    """
    paths = [replace(session.options.scoring(), ig_path=path) for path in ("layer", "all")]
    costs = [get_scorer(INTEGRATED).passes(options, len(session.sites))[0] for options in paths]
    options, cost = (paths[0], costs[0]) if costs[0] <= passes else (paths[1], costs[1])
    names = [name for name in SCORERS if name != INTEGRATED or cost <= passes or name in importances]
    missing = [name for name in names if name not in importances or not importances[name].sums]
    scored = {**importances, **score_all(session, session.ranked, missing, options, rundir.SHORTLIST)}
    channels = writers(session.vlm.model, session.sites, scored[PEAKS])
    rankings = {name: Ranking(scored[name], session.sites) for name in names}
    orders = [
        _first(ranking, size),
        *(_first(rankings[name], size) for name in names),
        [neuron for group in channels.groups(GROUP) for neuron in group],
        _published(session),
        chain,
    ]
    turns = (neuron for turn in zip_longest(*orders) for neuron in turn if neuron is not None)
    whole = [r for r in (rankings.get(INTEGRATED), ranking) if r is not None]
    chains = [chain, *(_first(r, len(r)) for r in whole)]
    return Shortlist(list(islice(dict.fromkeys(turns), size)), chains, channels, cost if INTEGRATED in missing else 0)


def _first(ranking: Ranking, count: int) -> list[Neuron]:
    return [ranking[i] for i in range(min(count, len(ranking)))]


def _published(session: Session) -> list[Neuron]:
    """Published coordinates among the chosen sites."""
    truth = truth_of(session.vlm, None)
    if truth is None or truth.name in SEEDED:
        return []
    return [n for n in truth.everywhere(session.sites, session.vlm.sites) if n.site in session.sites]
