"""The :class:`Shortlist` of a measured search: the neurons that sets are made of, and who writes which channel.

It is the union of the first of several rankings, which fail differently: the study's own, CAN, activation, Taylor, activation
times the norm of what is written (``wanda``), the largest activation (``superweight``), integrated gradients along the path on
which all sites are scaled together, the strongest writers of each channel, published coordinates of the model, and the steepest
chain. They take turns, each giving its next neuron, until the list is full. What was seeded in an embedded model is not asked:
there the search has to find it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest

from lesion.core.importance import Importance
from lesion.core.neurons import Neuron
from lesion.core.ranking import Ranking
from lesion.scoring.writers import Writers, writers
from lesion.study import rundir
from lesion.study.importances import importances as score_all
from lesion.study.published import SEEDED, truth_of
from lesion.study.session import Session

SCORERS = ("can", "activation", "taylor", "wanda", "superweight", "integrated-gradients")
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
        writers: Of each channel.
    """

    neurons: Sequence[Neuron]
    writers: Writers

    @property
    def groups(self) -> list[list[Neuron]]:
        """Neurons of the list that write one channel, the strongest first."""
        return self.writers.groups(GROUP)


def shortlist(
    session: Session, ranking: Ranking, importances: Mapping[str, Importance], size: int, chain: Sequence[Neuron] = ()
) -> Shortlist:
    """Makes the list, scoring on the samples that are ranked on what the study has not scored.

    Args:
        session: Open.
        ranking: The study's own.
        importances: By scorer, what it has scored.
        size: So many neurons.
        chain: One more order (:mod:`lesion.study.steepest_chain`).
    """
    missing = [name for name in SCORERS if name not in importances or not importances[name].sums]
    options = replace(session.options.scoring(), ig_path="all")
    scored = {**importances, **score_all(session, session.ranked, missing, options, rundir.SHORTLIST)}
    channels = writers(session.vlm.model, session.sites, scored[PEAKS])
    orders = [
        _first(ranking, size),
        *(_first(Ranking(scored[name], session.sites), size) for name in SCORERS),
        [neuron for group in channels.groups(GROUP) for neuron in group],
        _published(session),
        chain,
    ]
    turns = (neuron for turn in zip_longest(*orders) for neuron in turn if neuron is not None)
    return Shortlist(list(islice(dict.fromkeys(turns), size)), channels)


def _first(ranking: Ranking, count: int) -> list[Neuron]:
    return [ranking[i] for i in range(min(count, len(ranking)))]


def _published(session: Session) -> list[Neuron]:
    """Published coordinates among the chosen sites."""
    truth = truth_of(session.vlm, None)
    if truth is None or truth.name in SEEDED:
        return []
    return [n for n in truth.everywhere(session.sites, session.vlm.sites) if n.site in session.sites]
