"""The sweep finds k* and keeps its budget, whatever the curve; controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.ablation import controls
from lesion.ablation.search import drive
from lesion.ablation.sweep import budget, schedule, sweep
from lesion.core.errors import OptionError
from lesion.core.importance import Importance
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites

ROOMS = (1, 2, 3, 8)
WORDS = ("standing", "undecided", "collapsed")


def run(limit, decide, room=1):
    """The curve's k, with everything about the asking that must hold checked."""
    questions = []

    def answer(ks):
        assert 1 <= len(ks) <= room
        questions.extend(ks)
        return [decide(k) for k in ks]

    ks = drive(sweep(limit, room), answer)
    assert len(questions) == len(set(questions)), "no k is asked about twice"
    assert ks == sorted(ks) and set(ks) <= set(questions)
    assert room > 1 or ks == sorted(questions)
    return ks


def collapsed_where(collapses):
    return lambda k: "collapsed" if collapses(k) else "standing"


def test_the_schedule():
    assert list(schedule(30)) == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 30]
    assert list(schedule(1)) == [0, 1]
    assert list(schedule(16)) == [0, 1, 2, 3, 4, 6, 8, 12, 16]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2_500_000), st.floats(0, 1))
def test_a_step_is_found_exactly_within_the_budget(limit, where):
    k_star = max(1, int(where * limit))
    ks = run(limit, collapsed_where(lambda k: k >= k_star))
    assert k_star in ks and k_star - 1 in ks
    assert len(ks) <= budget(limit)
    assert all(run(limit, collapsed_where(lambda k: k >= k_star), room) == ks for room in ROOMS)


def first_lasting(ks, decide):
    """By its definition: the first k that collapses and is not followed by one at which the model stands."""
    followed = [*(decide(k) for k in ks[1:]), None]
    return next((k for k, after in zip(ks, followed, strict=True) if decide(k) == "collapsed" and after != "standing"), None)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 200), st.randoms(use_true_random=False), st.booleans())
def test_the_curve_does_not_depend_on_how_many_are_asked_about_at_a_time(limit, rng, monotone):
    """Beside brute force: of a k* that the sweep leads to, the one before it does not collapse, whatever the curve."""
    words = sorted(rng.choices(WORDS, weights=(3, 1, 3), k=limit), key=WORDS.index) if monotone else rng.choices(WORDS, k=limit)

    def decide(k):
        return "standing" if k == 0 else words[k - 1]

    ks = run(limit, decide)
    assert len(ks) <= budget(limit)
    assert all(run(limit, decide, room) == ks for room in ROOMS)
    k_star = first_lasting(ks, decide)
    if monotone:
        assert k_star == next((k for k in range(1, limit + 1) if decide(k) == "collapsed"), None)
    elif k_star is not None:
        assert decide(k_star - 1) != "collapsed"


def test_undecided_is_no_collapse_and_does_not_end_one():
    """From 5 on it cannot be said, from 11 on it is a collapse; what follows a collapse and is undecided does not undo it."""
    ks = run(40, lambda k: "standing" if k < 5 else "undecided" if k < 11 else "collapsed")
    assert {10, 11} <= set(ks)
    assert run(40, lambda k: "undecided") == list(schedule(40))
    ks = run(40, lambda k: "collapsed" if k == 6 else "undecided" if k > 6 else "standing")
    assert ks == [0, 1, 2, 3, 4, 5, 6, 8]


def test_no_collapse_is_searched_to_the_end():
    assert run(30, collapsed_where(lambda k: False)) == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 30]


def test_a_single_fallen_k_is_not_the_end():
    ks = run(40, collapsed_where(lambda k: k == 3 or k >= 11))
    assert {10, 11}.issubset(ks)


@given(st.integers(1, 3000), st.sets(st.integers(1, 3000)))
def test_any_curve_ends_within_the_budget(limit, fallen):
    assert len(run(limit, collapsed_where(fallen.__contains__))) <= budget(limit)


def test_a_limit_below_one_is_refused():
    with pytest.raises(OptionError, match="largest k is 0"):
        run(0, collapsed_where(lambda k: False))


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
