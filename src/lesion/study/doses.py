"""The :class:`Doses` of a critical set: what its neurons do alone, in pairs, and multiplied instead of masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from lesion.ablation.measure import Ablation
from lesion.core.criterion import told
from lesion.core.interactions import interplay
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood, pool
from lesion.hooks.intervention import Scale
from lesion.study.explanation import AnswerEntry, DoseEntry, Explanation, NeuronDose, PairEntry, SetDose, Source
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.run import Run

FACTORS = (2.0, 0.9, 0.75, 0.5, 0.25, 0.1, 0.0, -1.0)
"""What values are multiplied by, beside the 1 of the intact model."""
TOO_MUCH = 100.0
"""Nats that a loss counts as that is not finite."""


class Doses:
    """Measures a critical set alone, in pairs and scaled.

    Args:
        run: The study.
        neurons: The set.
    """

    def __init__(self, run: Run, neurons: NeuronSet) -> None:
        self._run, self._session, self._neurons = run, run.session, neurons
        self._ablation: Ablation = run.ablation
        self._intact = self._ablation.readings([NeuronSet()])[0]

    def explanation(self, source: Source) -> Explanation:
        """All but the trace."""
        members = list(self._neurons)
        alone = [NeuronSet([n]) for n in members]
        both = [NeuronSet(pair) for pair in combinations(members, 2)]
        with self._session.progress.stage("alone and in pairs", None):
            readings = self._ablation.readings([*alone, *both, self._neurons])
        *parts, whole = readings
        harms = [self._harm(reading) for reading in parts]
        rises = [self._rise(reading) for reading in parts]
        pairs = [
            PairEntry(
                members=(i, j), rise=rises[len(members) + at], sum=_sum([rises[i], rises[j]]),
                interplay=interplay(harms[i], harms[j], harms[len(members) + at]),
            )
            for at, (i, j) in enumerate(combinations(range(len(members)), 2))
        ]  # fmt: skip
        return Explanation(
            source=source, neurons=[NeuronEntry.of(n) for n in members], samples=len(self._session.measured),
            rise=self._rise(whole), sum=_sum(rises[: len(members)]), pairs=pairs,
            doses=self._doses(alone, rises), together=self._together(), trace=None,
        )  # fmt: skip

    def _doses(self, alone: Sequence[NeuronSet], rises: Sequence[float | None]) -> list[NeuronDose]:
        """Each neuron scaled by each factor."""
        taylor = self._run.importances.get("taylor")
        doses: list[list[DoseEntry]] = [[] for _ in alone]
        with self._session.progress.stage("doses of each neuron", len(FACTORS)) as advance:
            for factor in FACTORS:
                ablation = self._scaled(factor)
                readings, decisions = ablation.readings(alone), ablation.decisions(alone)
                for entries, reading, decision in zip(doses, readings, decisions, strict=True):
                    entries.append(DoseEntry(factor=factor, rise=self._rise(reading), collapsed=told(decision)))
                advance(1)
        return [
            NeuronDose(
                neuron=NeuronEntry.of(n), alone=rises[i], doses=doses[i],
                promised=None if taylor is None else float(taylor.values(n.site)[n.index]),
            )
            for i, n in enumerate(self._neurons)
        ]  # fmt: skip

    def _together(self) -> list[SetDose]:
        """The whole set scaled by each factor, with its answers."""
        doses = []
        with self._session.progress.stage("doses of the set", len(FACTORS)) as advance:
            for factor in FACTORS:
                ablation = self._scaled(factor)
                evaluation = ablation(self._neurons)
                doses.append(SetDose(
                    factor=factor, collapsed=told(ablation.decide(evaluation)),
                    rise=self._rise([o.reference for o in evaluation.outcomes]),
                    answers=[AnswerEntry(sample=o.id, answer=o.answer, mode=o.mode) for o in evaluation.outcomes],
                    **evaluation.metrics,
                ))  # fmt: skip
                advance(1)
        return doses

    def _scaled(self, factor: float) -> Ablation:
        """Scales instead of masking, at the positions of the study's mask."""
        return self._session.ablation(None, Scale(factor=factor, positions=self._session.options.mask_positions))

    def _rise(self, reading: Sequence[Likelihood]) -> float | None:
        before, after = pool(self._intact).nll, pool(reading).nll
        return None if before is None or after is None else after - before

    def _harm(self, reading: Sequence[Likelihood]) -> np.ndarray:
        """The rise of each sample's mean NLL, ``[samples]``."""
        pairs = zip(self._intact, reading, strict=True)
        return np.array([TOO_MUCH if a.nll is None or b.nll is None else b.nll - a.nll for a, b in pairs])


def _sum(rises: Sequence[float | None]) -> float | None:
    known = [rise for rise in rises if rise is not None]
    return math.fsum(known) if len(known) == len(rises) else None
