"""An :class:`Ablation`: one intervention on any sets of neurons, measured on fixed samples, each set once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from lesion.ablation.controls import Writers, draw_each
from lesion.ablation.evaluator import Evaluator
from lesion.ablation.minimal import Minimal, backward_elimination, delta_debug
from lesion.ablation.search import drive
from lesion.ablation.sweep import sweep
from lesion.ablation.units import Request
from lesion.core.criterion import Baseline, Criterion, Decision, decide
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood, perplexity, pool
from lesion.core.progress import Advance, Progress
from lesion.core.ranking import Ranking
from lesion.hooks.intervention import Intervention

Entry = tuple[str, dict[str, Any], Evaluation]
"""Key, what it is, and what was measured."""


class Store(Protocol):
    """Keeps evaluations by key; a run directory is one."""

    def evaluation(self, key: str) -> Evaluation | None:
        """What was measured under a key; None where nothing was."""
        ...

    def add_evaluations(self, entries: Sequence[Entry]) -> None:
        """Keeps all of them or, if the process is killed, none; with what a reader of the file should know of each."""
        ...

    def reading(self, key: str) -> Sequence[Likelihood] | None:
        """How likely the reference answers were under a key, where nothing else was measured."""
        ...

    def add_readings(self, readings: Sequence[tuple[str, int, Sequence[Likelihood]]]) -> None:
        """Keeps all of them or none: key, how many neurons were masked, and one likelihood a sample."""
        ...


@dataclass(frozen=True)
class Control:
    """A set of the critical set's size, drawn by chance.

    Attributes:
        kind: See :data:`lesion.ablation.controls.KINDS`.
        seed: Drew it.
        k: How many neurons.
        evaluation: What masking it does; None where the model has not enough other neurons to draw it.
        decision: What the criterion says of that.
    """

    kind: str
    seed: int
    k: int
    evaluation: Evaluation | None
    decision: Decision | None


class Ablation:
    """Masks neurons and measures the model; what is in the store is not measured again.

    Args:
        evaluator: Makes the evaluator, when the first set is measured that is not in the store.
        intervention: What becomes of the neurons.
        criterion: What counts as collapsed.
        key: From a set to the key of its evaluation.
        store: Where evaluations are kept.
        progress: Listens to the stages.
    """

    def __init__(
        self,
        evaluator: Callable[[], Evaluator],
        intervention: Intervention,
        criterion: Criterion,
        key: Callable[[NeuronSet], str],
        store: Store,
        progress: Progress,
    ) -> None:
        self._make, self.intervention, self.criterion = evaluator, intervention, criterion
        self.key, self._store, self._progress = key, store, progress

    @cached_property
    def evaluator(self) -> Evaluator:
        return self._make()

    def many(
        self, sets: Sequence[NeuronSet], apart: bool = False, advance: Advance = lambda _: None
    ) -> list[Evaluation]:
        """What masking each of the sets does, in their order.

        Args:
            sets: Of neurons.
            apart: For sets that may be others the next time: those that go through the model together decide on each other's
                last digits.
            advance: Called with how many of the sets are there, as they come.
        """
        keys = [self.key(neurons) for neurons in sets]
        missing = {k: n for k, n in zip(keys, sets, strict=True) if self._store.evaluation(k) is None}
        times = Counter(keys)
        advance(sum(count for key, count in times.items() if key not in missing))
        if missing:
            wanted = list(missing.items())
            requests = [Request(neurons, self.intervention) for _, neurons in wanted]
            for group in self.evaluator.stream(requests, apart):
                self._store.add_evaluations([self._entry(*wanted[place], measured) for place, measured in group.items()])
                advance(sum(times[wanted[place][0]] for place in group))
        return [e for key in keys if (e := self._store.evaluation(key)) is not None]

    def _entry(self, key: str, neurons: NeuronSet, measured: Evaluation) -> Entry:
        about = {"kind": "mask", "neurons": len(neurons), "digest": neurons.digest, "mask": self.intervention.id}
        return key, about, measured

    def __call__(self, neurons: NeuronSet) -> Evaluation:
        """What masking a set does."""
        return self.many([neurons])[0]

    @cached_property
    def baseline(self) -> Baseline:
        """The intact model, and the CLIP score at chance."""
        intact, chance = self(NeuronSet()), self.evaluator.chance
        return Baseline(intact, None if chance is None else np.array(chance))

    def decide(self, evaluation: Evaluation) -> Decision:
        """What the criterion says of an evaluation."""
        return decide(self.criterion, self.baseline, evaluation)

    def decisions(self, sets: Sequence[NeuronSet], hold: bool = False) -> list[Decision]:
        """What the criterion says of masking each of the sets.

        The likelihood of the reference answers comes first; the masked model answers only where that does not decide.

        Args:
            sets: Of neurons.
            hold: Whether :meth:`many` will be asked about them too.
        """
        asked = [self.key(neurons) for neurons in sets]
        keys = dict(zip(asked, sets, strict=True))
        found: dict[str, Decision] = {k: self.decide(e) for k in keys if (e := self._store.evaluation(k)) is not None}
        if self.criterion.early(self.baseline):  # otherwise a reading can decide nothing
            self._read({k: n for k, n in keys.items() if k not in found}, hold)
        for key in (k for k in keys if k not in found):
            reading = self._store.reading(key)
            decision = None if reading is None else self.criterion.decide_early(self.baseline, reading)
            if decision is not None:
                found[key] = decision
        still = {k: n for k, n in keys.items() if k not in found}
        found |= {k: self.decide(e) for k, e in zip(still, self.many(list(still.values()), apart=True), strict=True)}
        return [found[key] for key in asked]

    def collapses(self, sets: Sequence[NeuronSet]) -> list[bool]:
        """Whether masking each of the sets collapses the model; undecided is no."""
        return [decision == "collapsed" for decision in self.decisions(sets)]

    def readings(self, sets: Sequence[NeuronSet]) -> list[Sequence[Likelihood]]:
        """How likely the reference answers are with each of the sets masked, one likelihood a sample."""
        asked = [self.key(neurons) for neurons in sets]
        keys = dict(zip(asked, sets, strict=True))
        self._read({k: n for k, n in keys.items() if self._store.evaluation(k) is None})
        return [self._reading(key) for key in asked]

    def _reading(self, key: str) -> Sequence[Likelihood]:
        """What is kept under a key, by itself or in an evaluation."""
        evaluation = self._store.evaluation(key)
        return (self._store.reading(key) or ()) if evaluation is None else [o.reference for o in evaluation.outcomes]

    def _read(self, wanted: Mapping[str, NeuronSet], hold: bool = False) -> None:
        """Has the reference answers read under those of the sets of which no reading is kept."""
        keys = [key for key in wanted if self._store.reading(key) is None]
        if not keys:
            return
        for group in self.evaluator.read([Request(wanted[k], self.intervention) for k in keys], hold):
            self._store.add_readings([(key := keys[p], len(wanted[key]), reading) for p, reading in group.items()])

    def curve(self, ranking: Ranking, limit: int | None = None) -> Curve:
        """The progressive sweep of a ranking, up to its collapse or to ``limit`` neurons (default: all)."""
        with self._progress.stage("masking the top k", None) as advance:

            def answer(ks: list[int]) -> list[Decision]:
                tops = [ranking.top(k) for k in ks]
                decisions = self.decisions(tops, hold=True)
                for k, top, decision in zip(ks, tops, decisions, strict=True):
                    self._progress.point(k, perplexity(pool(self._reading(self.key(top)))), decision)
                advance(len(ks))
                return decisions

            ks = drive(sweep(limit or len(ranking), self.evaluator.room), answer)
        with self._progress.stage("answers along the curve", None):
            # What decided nothing was left to here, where many go through the model together.
            return Curve(self.many([ranking.top(k) for k in ks]), self.baseline.chance)

    def minimal(self, ranking: Ranking, k_star: int, by_parts: int | None = None) -> Minimal:
        """The 1-minimal set within the top k*, which collapse the model.

        Args:
            ranking: The most important first.
            k_star: So many collapse the model.
            by_parts: Take away whole parts first (:func:`lesion.ablation.minimal.delta_debug`), and stop after so many trials;
                None to try every neuron by itself (:func:`lesion.ablation.minimal.backward_elimination`).
        """
        top, room = [ranking[i] for i in range(k_star)], self.evaluator.room
        with self._progress.stage("minimal set", None) as advance:

            def answer(sets: list[NeuronSet]) -> list[bool]:
                fallen = self.collapses(sets)
                advance(len(sets))
                return fallen

            search = backward_elimination(top, room) if by_parts is None else delta_debug(top, by_parts, room)
            return drive(search, answer)

    def controls(
        self, critical: NeuronSet, ranking: Ranking, activation: Importance, seeds: int, first_seed: int = 0,
        writers: Writers | None = None,
    ) -> list[Control]:
        """Sets of the critical set's size, drawn by chance; arguments as of :func:`lesion.ablation.controls.draw_each`."""
        drawn = draw_each(critical, ranking, activation, seeds, first_seed, writers)
        if not drawn:
            return []
        sets = {which: neurons for which, neurons in drawn.items() if neurons is not None}
        with self._progress.stage("controls", len(sets)) as advance:
            # All at once, so that no replica waits for another's; units are the same in a process of its own.
            measured = dict(zip(sets, self.many(list(sets.values()), advance=advance), strict=True))
        return [
            Control(kind, seed, len(critical), e := measured.get((kind, seed)), None if e is None else self.decide(e))
            for kind, seed in drawn
        ]
