"""Minimal sets against brute force, on small set functions, monotone and not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.ablation.minimal import backward_elimination, delta_debug
from lesion.core.neurons import Neuron
from lesion.core.sites import Site

SITE = Site("a.gate_proj", "language", "gate", 0, 4096)
SEARCHES = (backward_elimination, delta_debug)


def neurons(count):
    return [Neuron(SITE, i) for i in range(count)]


@pytest.mark.parametrize("search", SEARCHES)
@settings(max_examples=150, deadline=None)
@given(st.integers(1, 7), st.randoms(use_true_random=False), st.booleans(), st.floats(0.02, 0.4))
def test_against_brute_force(search, size, rng, monotone, share):
    """Whatever the set function, the result collapses, no leave-one-out of it does, and no set is asked about twice."""
    members = neurons(size)
    subsets = [frozenset(c) for r in range(size + 1) for c in itertools.combinations(members, r)]
    fatal = {s for s in subsets if s and rng.random() < share} | {frozenset(members)}
    if monotone:
        fatal = {s for s in subsets if any(f <= s for f in fatal)}
    asked = []

    def collapses(found):
        asked.append(found)
        return frozenset(found) in fatal

    found = search(members, collapses)
    kept = frozenset(found.neurons)
    assert found.verified and found.tried == len(asked) == len(set(asked))
    assert kept in fatal
    assert not any(kept - {n} in fatal for n in kept)
    if monotone:
        assert not any(f < kept for f in fatal), "with a monotone function, no subset at all collapses"


@pytest.mark.parametrize("search", SEARCHES)
@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 39), min_size=1, max_size=5))
def test_the_only_cause_is_found(search, cause):
    found = search(neurons(40), lambda s: cause <= {n.index for n in s})
    assert {n.index for n in found.neurons} == cause


def test_delta_debugging_is_cheap_where_few_of_many_are_needed():
    cause = {3, 700, 2100}
    found = delta_debug(neurons(4096), lambda s: cause <= {n.index for n in s})
    assert {n.index for n in found.neurons} == cause
    assert found.tried < 4096 / 10


def test_out_of_trials_is_said_and_what_was_found_still_collapses():
    cause = set(range(32))  # the first half; then none of it can go

    def collapses(found):
        return cause <= {n.index for n in found}

    found = delta_debug(neurons(64), collapses, limit=20)
    assert not found.verified and found.tried == 20
    assert collapses(found.neurons) and len(found.neurons) == 32
