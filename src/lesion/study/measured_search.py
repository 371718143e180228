"""The measured search of a study: it looks for the smallest set on the samples that are ranked on, and is judged on the others.

The search (:mod:`lesion.ablation.smallest`) may try hundreds of sets, and the one it ends with is the luckiest of them. So its
sets are then asked about on the samples that are measured on, the smallest first, until one holds; at most :data:`ASKED`, each
a tenth larger than the last, so that this is no second search. What is proved of the set that holds
(:data:`lesion.study.searched.Level`) and its controls are measured there too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from lesion.ablation.harm import Harm, harms
from lesion.ablation.measure import Ablation
from lesion.ablation.search import drive
from lesion.ablation.smallest import Smallest, smallest
from lesion.core.criterion import told
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.study.entries import control_entry
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.searched import CandidateEntry, Level, Searched, SingleEntry, StepEntry, SubsetEntry
from lesion.study.session import Session
from lesion.study.shortlist import Shortlist, shortlist
from lesion.study.steepest_chain import COST, steepest_chain

ASKED = 4
"""So many sets are asked about on the samples that are measured on, at most."""
PART = 5
"""One of so many parts of the budget may go into the steepest chain, and one into integrated gradients."""
EVERY_PART = 5
"""Of sets up to this size every part is measured: 30 of 5 neurons."""
EACH_LEFT_OUT = 64
"""Of sets up to this size every neuron is left out once."""
SHOWN = 20
"""So many single neurons are listed, the most harmful first."""


@dataclass(frozen=True)
class Ground:
    """What a measured search starts from.

    Attributes:
        session: Open.
        seeking: Masks on the samples that are ranked on.
        judging: Masks on the samples that are measured on.
        ranking: The study's own.
        importances: By scorer; holds ``activation``.
    """

    session: Session
    seeking: Ablation
    judging: Ablation
    ranking: Ranking
    importances: Mapping[str, Importance]


def search(ground: Ground) -> Searched:
    """Looks for the smallest set that collapses the model, and says what is proved of it."""
    options = ground.session.options
    part = options.search_budget // PART
    chain = steepest_chain(ground.session, ground.seeking, part)
    listed = shortlist(
        ground.session, ground.ranking, ground.importances, options.shortlist, chain.neurons, part // COST
    )
    before = chain.cost + COST * listed.passes
    found = _seek(ground, listed, options.search_budget - before)
    candidates = _judge(ground, found.sets)
    best = NeuronSet()
    if candidates and candidates[-1].collapsed:
        best = NeuronSet(entry.neuron() for entry in candidates[-1].neurons).fit(ground.session.sites)
    subsets = _subsets(ground, best)
    controls = ground.judging.controls(
        best, ground.ranking, ground.importances["activation"], options.controls, 1000 * options.seed, listed.writers
    )
    return Searched(
        budget=options.search_budget, spent=found.spent + before, passes=chain.passes + listed.passes,
        ended=found.ended, shortlist=len(listed.neurons),
        samples=len(ground.session.ranked), steps=[_step(before + s.spent, s.neurons, s.harm) for s in found.steps],
        singles=[
            SingleEntry(neuron=NeuronEntry.of(neuron), rise=_finite(harm.rise), collapsed=harm.collapsed)
            for neuron, harm in found.singles[:SHOWN]
        ],
        candidates=candidates, neurons=candidates[-1].neurons if len(best) else None,
        level=level_of(len(best), subsets) if len(best) else None, subsets=subsets,
        controls=[control_entry(c) for c in controls],
    )  # fmt: skip


def _seek(ground: Ground, listed: Shortlist, budget: int) -> Smallest:
    with ground.session.progress.stage("measured search", budget) as advance:

        def answer(sets: list[NeuronSet]) -> list[Harm]:
            found = harms(ground.seeking, sets)
            advance(len(sets))
            return found

        return drive(smallest(listed.neurons, listed.groups, budget, listed.chains), answer)


def _judge(ground: Ground, sets: Sequence[NeuronSet]) -> list[CandidateEntry]:
    """Asks about the sets, the smallest first, until one collapses the model."""
    candidates = []
    for neurons in spread(sets):
        evaluation = ground.judging(neurons)
        decision = ground.judging.decide(evaluation)
        candidates.append(CandidateEntry(
            neurons=[NeuronEntry.of(n) for n in neurons], collapsed=told(decision), evaluation=evaluation.key,
            **evaluation.metrics,
        ))  # fmt: skip
        if decision == "collapsed":
            break
    return candidates


def spread(sets: Sequence[NeuronSet]) -> list[NeuronSet]:
    """At most :data:`ASKED` of the sets: the smallest, and of those behind it each that is a tenth larger than the last."""
    chosen: list[NeuronSet] = []
    for neurons in sets:
        if len(chosen) < ASKED and (not chosen or 10 * len(neurons) >= 11 * len(chosen[-1])):
            chosen.append(neurons)
    return chosen


def _subsets(ground: Ground, neurons: NeuronSet) -> list[SubsetEntry]:
    """Parts of a set: all of them, or those with one neuron fewer, or none of a set too large for that."""
    count, members = len(neurons), list(neurons)
    sizes = range(1, count) if count <= EVERY_PART else range(count - 1, count) if count <= EACH_LEFT_OUT else ()
    parts = list(chain.from_iterable(combinations(range(count), size) for size in sizes))
    with ground.session.progress.stage("parts of the set that was found", len(parts)) as advance:
        decisions = ground.judging.decisions([NeuronSet(members[i] for i in part) for part in parts])
        advance(len(parts))
    return [SubsetEntry(members=list(p), collapsed=told(d)) for p, d in zip(parts, decisions, strict=True)]


def level_of(count: int, subsets: Sequence[SubsetEntry]) -> Level:
    """What the measured parts of a set of ``count`` neurons prove; a part of which the samples do not tell proves nothing."""
    standing = {tuple(part.members) for part in subsets if part.collapsed is False}
    if len(standing) == 2**count - 2:
        return "subset-minimal"
    return "1-minimal" if sum(len(part) == count - 1 for part in standing) == count else "collapses"


def _step(spent: int, neurons: NeuronSet, harm: Harm) -> StepEntry:
    return StepEntry(spent=spent, size=len(neurons), rise=_finite(harm.rise), collapsed=harm.collapsed)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
