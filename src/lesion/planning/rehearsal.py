"""A rehearsal: the study's own searches, asked of a model that is made up, so that what they ask for can be counted.

The model of a rehearsal collapses where all of the first k* neurons are masked, and otherwise stands. So its minimal set is all
of them, which takes a real study at most as many trials unless fewer neurons would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesion.ablation.measure import Ablation, Entry
from lesion.ablation.units import Grouping, Request
from lesion.core.criterion import COLLAPSED, STANDING, Baseline, CollapseCriterion, Condition, Criterion, Decision
from lesion.core.evaluation import Evaluation
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood, SampleOutcome
from lesion.core.progress import Silent
from lesion.planning.load import Load, Part

_STANDS, _FALLS = 1.0, 100.0
"""Nats a token."""


@dataclass(frozen=True)
class Masking:
    """Masks on some samples, rehearsed.

    Attributes:
        ablation: Asks as a study's does.
        loads: What it has asked for; grows.
    """

    ablation: Ablation
    loads: list[Load]

    @classmethod
    def of(
        cls, grouping: Grouping, count: int, replicas: int, critical: NeuronSet | None, rule: Criterion, clip: bool
    ) -> Masking:
        """Begins one.

        Args:
            grouping: Of requests into units.
            count: How many samples.
            replicas: As of :meth:`lesion.ablation.units.Grouping.ahead`.
            critical: The model collapses with all of these masked; None for one that never does.
            rule: The study's criterion.
            clip: Whether there is a CLIP score.
        """
        loads: list[Load] = []
        evaluator: Any = _Rehearsed(grouping, count, replicas, critical, loads)
        judge: Any = _Judge(rule, clip)
        act = Request(NeuronSet()).intervention
        return cls(Ablation(lambda: evaluator, act, judge, lambda s: s.digest if len(s) else "", _Kept(), Silent()), loads)

    def taken(self) -> list[Load]:
        """What it has asked for since it was asked this last."""
        loads = list(self.loads)
        self.loads.clear()
        return loads


class _Rehearsed:
    """Stands in for an evaluator, on one sample that stands for all."""

    chance = None

    def __init__(
        self, grouping: Grouping, count: int, replicas: int, critical: NeuronSet | None, loads: list[Load]
    ) -> None:
        self._grouping, self._count, self._critical, self._loads = grouping, count, critical, loads
        self.room = grouping.ahead(replicas)

    def stream(self, requests: Sequence[Request], apart: bool = False) -> Iterator[dict[int, Evaluation]]:
        self._loads.append(self._asked(requests, False, apart))
        for place, request in enumerate(requests):
            yield {place: Evaluation(len(request.neurons), (_outcome(self._reference(request)),))}

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[dict[int, list[Likelihood]]]:
        self._loads.append(self._asked(requests, True, False))
        for place, request in enumerate(requests):
            yield {place: [self._reference(request)]}

    def _asked(self, requests: Sequence[Request], reading: bool, apart: bool) -> Load:
        parts = []
        for units in self._grouping.units(requests, reading, apart):
            falls = any(self._falls(requests[place]) for place in units[0].places)
            alone = self._grouping.writing == 1
            kind = "read" if reading else "alone" if alone else "babble" if falls else "write"
            parts.append(Part(kind, len(units), self._count * len(units[0].places)))
        return Load(tuple(parts))

    def _falls(self, request: Request) -> bool:
        critical, masked = self._critical, request.neurons
        if critical is None or len(masked) < len(critical):
            return False
        return all(np.isin(critical.indices(site), masked.indices(site)).all() for site in critical.sites)

    def _reference(self, request: Request) -> Likelihood:
        return Likelihood(_FALLS if self._falls(request) else _STANDS, 1)


class _Judge:
    """Decides as a study's criterion would, as early as that does."""

    def __init__(self, rule: Criterion, clip: bool) -> None:
        conditions = rule.conditions if isinstance(rule, CollapseCriterion) else ()
        usable = [c for c in conditions if clip or c.metric != "clip_score"]
        self._early = [c for c in usable if c.metric == "ppl_reference"]
        self._alone = len(self._early) == len(usable)
        self._all = isinstance(rule, CollapseCriterion) and rule.rule == "all"

    def early(self, baseline: Baseline) -> list[Condition]:
        return self._early

    def decide_early(self, baseline: Baseline, reference: Sequence[Likelihood]) -> Decision | None:
        if reference[0].nll == _FALLS:
            return "collapsed" if self._alone or not self._all else None
        return "standing" if self._alone or self._all else None

    def decide_in(self, baseline: Baseline, evaluation: Evaluation, draws: np.ndarray) -> np.ndarray:
        falls = evaluation.outcomes[0].reference.nll == _FALLS
        return np.full(len(draws), COLLAPSED if falls else STANDING, dtype=np.int8)


class _Kept:
    """A store in memory."""

    def __init__(self) -> None:
        self._evaluations: dict[str, Evaluation] = {}
        self._readings: dict[str, Sequence[Likelihood]] = {}

    def evaluation(self, key: str) -> Evaluation | None:
        return self._evaluations.get(key)

    def add_evaluations(self, entries: Sequence[Entry]) -> None:
        self._evaluations |= {key: Evaluation(e.k, e.outcomes, key) for key, _, e in entries}

    def reading(self, key: str) -> Sequence[Likelihood] | None:
        return self._readings.get(key)

    def add_readings(self, readings: Sequence[tuple[str, int, Sequence[Likelihood]]]) -> None:
        self._readings |= {key: reading for key, _, reading in readings}


def _outcome(reference: Likelihood) -> SampleOutcome:
    return SampleOutcome(
        id="", answer="", reference=reference, generated=reference, generated_intact=reference, clip=None, kl=None,
        agreement=0.0, exact=False, repeated=0.0, not_text=0.0, mode="intact",
    )  # fmt: skip
