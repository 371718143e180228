"""The sweep finds k* and keeps its budget, whatever the curve; controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.ablation import controls
from lesion.ablation.sweep import budget, schedule, sweep
from lesion.core.errors import OptionError
from lesion.core.importance import Importance
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from tests.synthetic import point


def run(limit, fallen):
    visited = []

    def evaluate(k):
        visited.append(k)
        return point(k, [0.2], [80])

    points = sweep(evaluate, lambda p: fallen(p.k), limit)
    assert len(visited) == len(set(visited)), "no k is evaluated twice"
    assert [p.k for p in points] == sorted(visited)
    return [p.k for p in points]


def test_the_schedule():
    assert list(schedule(30)) == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 30]
    assert list(schedule(1)) == [0, 1]
    assert list(schedule(16)) == [0, 1, 2, 3, 4, 6, 8, 12, 16]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2_500_000), st.floats(0, 1))
def test_a_step_is_found_exactly_within_the_budget(limit, where):
    k_star = max(1, int(where * limit))
    ks = run(limit, lambda k: k >= k_star)
    assert k_star in ks and k_star - 1 in ks
    assert len(ks) <= budget(limit)


def test_no_collapse_is_searched_to_the_end():
    assert run(30, lambda k: False) == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 30]


def test_a_single_fallen_k_is_not_the_end():
    ks = run(40, lambda k: k == 3 or k >= 11)
    assert {10, 11}.issubset(ks)


@given(st.integers(1, 3000), st.sets(st.integers(1, 3000)))
def test_any_curve_ends_within_the_budget(limit, fallen):
    assert len(run(limit, fallen.__contains__)) <= budget(limit)


def test_a_limit_below_one_is_refused():
    with pytest.raises(OptionError, match="largest k is 0"):
        run(0, lambda k: False)


SITE = Site("a.gate_proj", "language", "gate", 0, 64)
OTHER = Site("b.gate_proj", "language", "gate", 1, 64)


def ranking(width=64):
    sites = Sites([SITE, OTHER])
    sums = {s.key: np.arange(width, dtype=float)[::-1] / (i + 1) for i, s in enumerate(sites)}
    importance = Importance("can", {}, sites, sums, samples=1)
    return Ranking(importance, sites), importance


@pytest.mark.parametrize("kind", sorted(controls.KINDS))
def test_controls_have_the_size_and_none_of_the_members(kind):
    ranked, activation = ranking()
    critical = ranked.top(9)
    drawn = [controls.draw(kind, seed, critical, ranked, activation) for seed in range(6)]
    for control in drawn:
        assert control is not None and len(control) == 9 and len(control & critical) == 0
    assert len({c.digest for c in drawn if c}) == 6
    again = controls.draw(kind, 3, critical, ranked, activation)
    assert again == drawn[3]


def test_layer_controls_keep_the_counts_and_matched_ones_the_magnitude():
    ranked, activation = ranking()
    critical = ranked.top(9)
    layers = controls.draw("layers", 0, critical, ranked, activation)
    assert layers is not None and layers.by_layer() == critical.by_layer()

    def mean(neurons):
        return np.mean([activation.values(n.site)[n.index] for n in neurons])

    matched = [mean(controls.draw("magnitude", s, critical, ranked, activation)) for s in range(10)]
    random = [mean(controls.draw("random", s, critical, ranked, activation)) for s in range(10)]
    assert abs(np.mean(matched) - mean(critical)) < 0.5 * abs(np.mean(random) - mean(critical))


@pytest.mark.parametrize("kind", sorted(controls.KINDS))
def test_a_control_that_cannot_be_drawn_is_said_to_be_so(kind):
    ranked, activation = ranking()
    assert controls.draw(kind, 0, ranked.top(len(ranked) - 3), ranked, activation) is None


@pytest.mark.parametrize(("fallen", "drawn", "bound"), [(0, 10, 0.2589), (0, 100, 0.0295), (1, 10, 0.3942), (10, 10, 1.0)])
def test_the_bound_on_how_many_such_sets_collapse(fallen, drawn, bound):
    # By hand: 1 - 0.05 ** (1 / n) for none of n; the others from published Clopper-Pearson tables.
    assert controls.upper_bound(fallen, drawn) == pytest.approx(bound, abs=1e-4)
