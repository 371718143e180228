"""An ablation measures each set once, and asks the evaluator for many at a time; on an evaluator whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from lesion.ablation.controls import KINDS, register_control
from lesion.ablation.measure import Ablation, Entry
from lesion.ablation.units import Request
from lesion.core.criterion import CRITERIA
from lesion.core.evaluation import Evaluation
from lesion.core.importance import Importance
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.outcome import Likelihood
from lesion.core.progress import Silent
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from lesion.hooks.intervention import Zero
from tests.synthetic import CHANCE, point

SITE = Site("a", "language", "gate", 0, 40)
SITES = Sites([SITE])
NEEDED = {1, 4}
"""The model falls when these are masked; it is undecided where only the first of them is."""


class Known:
    """An evaluator whose model collapses without the neurons of :data:`NEEDED`."""

    chance = [CHANCE] * 4

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.batches: list[list[NeuronSet]] = []
        self.read_alone: list[NeuronSet] = []

    def stream(self, requests: Sequence[Request], apart: bool = False) -> Iterator[dict[int, Evaluation]]:
        self.batches.append([r.neurons for r in requests])
        yield {place: self.measured(r.neurons) for place, r in enumerate(requests)}

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[dict[int, list[Likelihood]]]:
        self.read_alone += [r.neurons for r in requests]
        yield {place: [o.reference for o in self.measured(r.neurons).outcomes] for place, r in enumerate(requests)}

    def measured(self, neurons: NeuronSet) -> Evaluation:
        masked = set(neurons.indices(SITE).tolist())
        clips = [80.0] * 4
        if masked >= NEEDED:
            clips = [20.0] * 4
        elif 1 in masked:
            clips = [8.0, 38.0, 10.0, 32.0]
        return point(len(neurons), [6.0 if clips[0] < 80 else 0.2] * 4, clips)


class Store:
    def __init__(self) -> None:
        self.lines: dict[str, Evaluation] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.readings: dict[str, Sequence[Likelihood]] = {}

    def evaluation(self, key: str) -> Evaluation | None:
        return self.lines.get(key)

    def reading(self, key: str) -> Sequence[Likelihood] | None:
        return self.readings.get(key)

    def add_readings(self, readings: Sequence[tuple[str, int, Sequence[Likelihood]]]) -> None:
        for key, _, reading in readings:
            assert key not in self.readings, "nothing is read twice"
            self.readings[key] = reading

    def add_evaluations(self, entries: Sequence[Entry]) -> None:
        for key, about, evaluation in entries:
            assert key not in self.lines, "nothing is measured twice"
            self.lines[key], self.about[key] = Evaluation(evaluation.k, evaluation.outcomes, key), about


def made(room: int = 1, criterion: str = "paper") -> tuple[Ablation, Known, Store]:
    evaluator, store = Known(room), Store()
    ablation = Ablation(lambda: evaluator, Zero(), CRITERIA[criterion], lambda n: n.digest, store, Silent())  # pyright: ignore[reportArgumentType]
    return ablation, evaluator, store


def neurons(*indices: int) -> NeuronSet:
    return NeuronSet(Neuron(SITE, i) for i in indices)


RANKING = Ranking.of([Neuron(SITE, i) for i in (7, 1, 2, 4, 9, *(i for i in range(40) if i not in (7, 1, 2, 4, 9)))], SITES)


def test_many_sets_are_one_question_each_measured_once():
    ablation, evaluator, store = made()
    sets = [neurons(1), neurons(2), neurons(1), NeuronSet()]
    evaluations = ablation.many(sets)
    assert [len(batch) for batch in evaluator.batches] == [3], "one batch of the three different ones"
    assert [e.k for e in evaluations] == [1, 1, 1, 0] and evaluations[0] is evaluations[2]
    assert ablation.many([*sets, neurons(3)])[:4] == evaluations and [len(b) for b in evaluator.batches] == [3, 1]
    assert store.about[neurons(1).digest] == {"kind": "mask", "neurons": 1, "digest": neurons(1).digest, "mask": "zero"}


def test_what_is_kept_makes_no_evaluator():
    ablation, _, store = made()
    ablation.many([neurons(1)])
    again = Ablation(lambda: pytest.fail("made"), Zero(), CRITERIA["paper"], lambda n: n.digest, store, Silent())
    assert again(neurons(1)).k == 1


def test_undecided_is_no_collapse():
    ablation, *_ = made()
    decisions = [ablation.decide(e) for e in ablation.many([neurons(1, 4), neurons(1), neurons(4)])]
    assert decisions == ["collapsed", "undecided", "standing"]
    assert ablation.collapses([neurons(1, 4), neurons(1), neurons(4)]) == [True, False, False]


def test_a_mask_is_answered_only_where_its_likelihoods_do_not_decide():
    """Where the perplexity has not risen, the model stands; where it has, the CLIP score decides, if the rule asks for it."""
    sets = [neurons(1, 4), neurons(4), neurons(1), neurons(4)]
    ablation, evaluator, store = made()
    assert ablation.collapses(sets) == [True, False, False, False]
    assert evaluator.read_alone == [neurons(1, 4), neurons(4), neurons(1)]
    assert evaluator.batches == [[NeuronSet()], [neurons(1, 4), neurons(1)]], "intact, and where it has risen"
    assert ablation.collapses(sets) == [True, False, False, False] and len(evaluator.read_alone) == 3
    ablation, evaluator, _ = made(criterion="perplexity")
    assert ablation.collapses(sets) == [True, False, True, False] and evaluator.batches == [[NeuronSet()]]
    ablation, evaluator, _ = made(criterion="degeneration")
    ablation.collapses(sets)
    assert not evaluator.read_alone and len(evaluator.batches) == 2
    again = Ablation(lambda: pytest.fail("made"), Zero(), CRITERIA["paper"], lambda n: n.digest, store, Silent())
    again.baseline = made()[0].baseline
    assert again.collapses(sets) == [True, False, False, False]


@pytest.mark.parametrize("room", [1, 2, 8])
def test_the_curve_and_the_minimal_set_are_the_same_whatever_the_room(room: int):
    ablation, evaluator, _ = made(room)
    curve = ablation.curve(RANKING)
    assert curve.ks == [0, 1, 2, 3, 4, 6] and curve.chance is not None and curve.chance.tolist() == [CHANCE] * 4
    assert all(len(batch) <= room for batch in evaluator.batches[1:])
    minimal = ablation.minimal(RANKING, 4)
    assert minimal.neurons == neurons(1, 4) and minimal.verified
    by_parts = ablation.minimal(RANKING, 4, by_parts=100)
    assert by_parts.neurons == neurons(1, 4) and by_parts.verified
    if room == 8:
        assert max(len(batch) for batch in evaluator.batches) > 2, "it asks ahead"


def test_the_curve_ends_at_its_limit():
    ablation, *_ = made()
    assert ablation.curve(RANKING, 3).ks == [0, 1, 2, 3]


def importance() -> Importance:
    return Importance("activation", {}, SITES, {SITE.key: np.arange(40.0)}, samples=1)


def test_controls_have_the_size_and_none_of_the_critical_neurons():
    ablation, _, store = made()
    controls = ablation.controls(neurons(1, 4), RANKING, importance(), seeds=3)
    assert [(c.kind, c.seed) for c in controls] == [(kind, seed) for kind in KINDS for seed in range(3)]
    assert {c.k for c in controls} == {2} and {c.decision for c in controls} == {"standing"}
    keys = {c.evaluation.key for c in controls if c.evaluation is not None}
    assert keys <= set(store.lines) and not keys & {neurons(1, 4).digest}
    assert ablation.controls(NeuronSet(), RANKING, importance(), seeds=3) == []
    assert ablation.controls(neurons(1, 4), RANKING, importance(), seeds=0) == []
    other = ablation.controls(neurons(1, 4), RANKING, importance(), seeds=3, first_seed=1000)
    assert [c.evaluation for c in other] != [c.evaluation for c in controls], "other seeds draw other sets"


def test_a_control_that_cannot_be_drawn_is_kept_as_that():
    ablation, *_ = made()
    critical = neurons(*range(30))
    controls = ablation.controls(critical, RANKING, importance(), seeds=1)
    assert {(c.evaluation, c.decision) for c in controls if c.kind != "magnitude"} == {(None, None)}


def test_a_control_of_ones_own_is_drawn_like_the_others():
    try:

        @register_control("last", "The last ones")
        def last(critical, ranking, activation, rng):
            return {SITE: np.arange(40 - len(critical), 40)}

        ablation, *_ = made()
        (control,) = (c for c in ablation.controls(neurons(1, 4), RANKING, importance(), seeds=1) if c.kind == "last")
        assert control.evaluation is not None and control.evaluation.key == neurons(38, 39).digest
        with pytest.raises(ValueError, match="'last' is registered already"):
            register_control("last", "again")(last)
    finally:
        KINDS.pop("last", None)
