"""The measured search against set functions whose smallest collapsing sets are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.ablation.harm import Harm
from lesion.ablation.search import drive
from lesion.ablation.smallest import CHUNK, Smallest, smallest
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site

SITE = Site("a.down_proj", "language", "hidden", 0, 4096)
ENOUGH = 2.3


def neurons(indices: Sequence[int]) -> list[Neuron]:
    return [Neuron(SITE, i) for i in indices]


def indices(members: NeuronSet) -> set[int]:
    return {n.index for n in members}


def run(
    rise: Callable[[set[int]], float],
    count: int = 100,
    groups: Sequence[Sequence[int]] = (),
    budget: int = 500,
    chains: Sequence[Sequence[int]] = (),
) -> Smallest:
    """Searches a shortlist of so many; no set is asked about twice, nor more of them than the budget."""
    asked: list[NeuronSet] = []

    def answer(sets: list[NeuronSet]) -> list[Harm]:
        assert 1 <= len(sets) <= CHUNK and all(len(s) for s in sets)
        asked.extend(sets)
        return [Harm(r := rise(indices(s)), r >= ENOUGH) for s in sets]

    members, kin = neurons(range(count)), [neurons(g) for g in groups]
    found = drive(smallest(members, kin, budget, [neurons(c) for c in chains]), answer)
    assert len(asked) == len(set(asked)) == found.spent <= budget
    assert all(rise(indices(s)) >= ENOUGH for s in found.sets)
    return found


def pair(members: set[int]) -> float:
    """Two neurons do together what neither does alone; others distract."""
    return 5.0 if {60, 90} <= members else 0.01 * len(members & set(range(10)))


def test_a_pair_that_no_single_one_betrays_is_found_where_both_write_one_channel():
    found = run(pair, groups=[[1, 2, 3], [60, 90]])
    assert indices(found.sets[0]) == {60, 90} and found.ended
    assert found.steps[-1].spent <= 100 + 20, "the two strongest writers of each channel are tried first"


def test_the_same_pair_is_found_without_a_channel_by_halving_what_collapses_together():
    found = run(pair)
    assert indices(found.sets[0]) == {60, 90} and found.steps[-1].spent < 200


def test_a_triple_of_one_channel():
    found = run(lambda s: 3.0 * ({4, 50, 70} <= s) + 0.001 * len(s & {1, 2}), groups=[[4, 50, 70]])
    assert indices(found.sets[0]) == {4, 50, 70}


def test_of_what_adds_up_the_most_harmful_are_taken():
    weight = [0.5 if i % 10 == 0 else 0.05 for i in range(100)]
    found = run(lambda s: sum(weight[i] for i in s))
    assert len(found.sets[0]) == 5 and all(i % 10 == 0 for i in indices(found.sets[0]))


def test_a_single_one_ends_the_search_behind_the_shortlist():
    found = run(lambda s: 4.0 if 77 in s else 3.0 if 5 in s else 0.0)
    assert [indices(s) for s in found.sets] == [{77}] and found.spent == 100 and found.ended
    assert [n.index for n, _ in found.singles[:2]] == [77, 5]


def test_a_chain_is_followed_where_the_shortlist_is_not_enough():
    """The chain goes beyond the shortlist; the cause is found in it, and what it does not need is taken away."""
    found = run(lambda s: 9.0 if {200, 230} <= s else 0.0, count=20, chains=[range(190, 250)])
    assert indices(found.sets[0]) == {200, 230}


def test_a_chain_that_is_a_little_better_is_used():
    """Of the first, 12 of 20 neurons are needed; of the second, 9 that the first does not begin with."""
    first, second = list(range(100, 120)), list(range(200, 209))
    found = run(lambda s: 3.0 if set(first[:12]) <= s or set(second) <= s else 0.0, count=10, chains=[first, second])
    assert indices(found.sets[0]) == set(second)


def test_nothing_is_said_to_be_found_where_there_is_nothing():
    found = run(lambda s: 0.001 * len(s), budget=300)
    assert found.sets == () and found.spent == 300 and not found.ended
    assert not any(step.harm.collapsed for step in found.steps)


def test_a_loss_that_is_not_finite_is_the_most_harmful():
    found = run(lambda s: float("inf") if {1, 2} <= s else 0.1 * len(s & {1, 2}), count=30)
    assert indices(found.sets[0]) == {1, 2}


@pytest.mark.parametrize("budget", [1, 7, 100, 101, 120, 141])
def test_the_best_so_far_is_kept_whatever_the_budget(budget):
    """It is anytime: less budget asks the same questions, and fewer of them."""
    whole, cut = run(pair), run(pair, budget=budget)
    assert cut.spent == budget and not cut.ended
    assert [s.neurons for s in cut.steps] == [s.neurons for s in whole.steps if s.spent <= budget]


def test_an_empty_shortlist_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        next(smallest([], [], 10))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 7), st.randoms(use_true_random=False), st.floats(0.02, 0.3))
def test_with_enough_budget_no_smaller_set_is_left(size, rng, share):
    """Against every set there is: where more neurons never help the model, what is found is as small as any."""
    subsets = [frozenset(c) for r in range(1, size + 1) for c in itertools.combinations(range(size), r)]
    causes = [s for s in subsets if rng.random() < share] or [frozenset(range(size))]
    found = run(lambda s: 3.0 if any(c <= s for c in causes) else 0.0, count=size, budget=10_000)
    assert found.ended and len(found.sets[0]) == min(map(len, causes))


def test_of_the_size_that_was_found_the_most_harmful_is_looked_for():
    """Any two of the first three collapse the model, and the third with the last does so with far more to spare."""
    harmful = {frozenset({0, 1}): 2.4, frozenset({0, 2}): 2.5, frozenset({1, 2}): 2.6, frozenset({2, 99}): 9.0}
    found = run(lambda s: max((rise for kin, rise in harmful.items() if kin <= s), default=0.0))
    assert indices(found.sets[0]) == {2, 99} and found.steps[-1].harm.rise == 9.0
