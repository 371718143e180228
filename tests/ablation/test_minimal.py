"""Minimal sets against brute force, on small set functions, monotone and not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.ablation.minimal import Minimal, backward_elimination, delta_debug
from lesion.ablation.search import Search, drive
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site

SITE = Site("a.gate_proj", "language", "gate", 0, 4096)
SEARCHES = (backward_elimination, delta_debug)


ROOMS = (1, 2, 3, 8)


def neurons(count):
    return [Neuron(SITE, i) for i in range(count)]


def run(search: Search, collapses: Callable[[NeuronSet], bool], room: int = 1) -> Minimal:
    """Drives a search; no set is asked about twice, and no more than there is room for at a time."""
    questions: list[NeuronSet] = []

    def answer(sets):
        assert 1 <= len(sets) <= room
        questions.extend(sets)
        return [collapses(members) for members in sets]

    outcome = drive(search, answer)
    assert len(questions) == len(set(questions))
    assert outcome.tried <= len(questions) and (room > 1 or outcome.tried == len(questions))
    return outcome


@pytest.mark.parametrize("search", SEARCHES)
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.randoms(use_true_random=False), st.booleans(), st.floats(0.02, 0.4))
def test_against_brute_force(search, size, rng, monotone, share):
    """Whatever the set function and the room, the result collapses and no leave-one-out of it does."""
    members = neurons(size)
    subsets = [frozenset(c) for r in range(size + 1) for c in itertools.combinations(members, r)]
    fatal = {s for s in subsets if s and rng.random() < share} | {frozenset(members)}
    if monotone:
        fatal = {s for s in subsets if any(f <= s for f in fatal)}
    outcome = run(search(members), lambda s: frozenset(s) in fatal)
    kept = frozenset(outcome.neurons)
    assert outcome.verified and kept in fatal
    assert not any(kept - {n} in fatal for n in kept)
    if monotone:
        assert not any(f < kept for f in fatal), "with a monotone function, no subset at all collapses"
    for room in ROOMS:
        assert run(search(members, room=room), lambda s: frozenset(s) in fatal, room) == outcome


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 24), st.randoms(use_true_random=False), st.integers(1, 30))
def test_the_limit_of_trials_does_not_depend_on_the_room(size, rng, limit):
    cause = set(rng.sample(range(size), rng.randint(1, size)))

    def collapses(members):
        return cause <= {n.index for n in members}

    outcome = run(delta_debug(neurons(size), limit), collapses)
    assert outcome.tried <= limit and collapses(outcome.neurons)
    for room in ROOMS:
        assert run(delta_debug(neurons(size), limit, room), collapses, room) == outcome


@pytest.mark.parametrize("search", SEARCHES)
@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 39), min_size=1, max_size=5))
def test_the_only_cause_is_found(search, cause):
    outcome = run(search(neurons(40)), lambda s: cause <= {n.index for n in s})
    assert {n.index for n in outcome.neurons} == cause


def test_delta_debugging_is_cheap_where_few_of_many_are_needed():
    cause = {3, 700, 2100}
    outcome = run(delta_debug(neurons(4096)), lambda s: cause <= {n.index for n in s})
    assert {n.index for n in outcome.neurons} == cause
    assert outcome.tried < 4096 / 10


def test_out_of_trials_is_said_and_what_was_reached_still_collapses():
    cause = set(range(32))  # the first half; then none of it can go

    def collapses(members):
        return cause <= {n.index for n in members}

    outcome = run(delta_debug(neurons(64), limit=20), collapses)
    assert not outcome.verified and outcome.tried == 20
    assert collapses(outcome.neurons) and len(outcome.neurons) == 32
