"""How sure a number is, against published tables and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion.core.statistics import (
    RESAMPLES,
    difference_interval,
    mean_bounds,
    percentile_interval,
    resamples,
    samples_to_decide,
    share_interval,
    share_upper_bound,
    student_quantile,
)


@pytest.mark.parametrize(
    ("share", "freedom", "quantile"),
    [
        (0.95, 1, 6.314), (0.95, 2, 2.920), (0.95, 3, 2.353), (0.95, 4, 2.132), (0.95, 7, 1.895), (0.95, 30, 1.697),
        (0.95, 120, 1.658), (0.975, 1, 12.706), (0.975, 9, 2.262), (0.5, 5, 0.0),
    ],
)  # fmt: skip
def test_students_distribution_has_the_published_quantiles(share, freedom, quantile):
    assert student_quantile(share, freedom) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize("samples", [2, 3, 8, 30])
def test_each_bound_of_a_mean_is_right_in_95_percent_of_draws(samples):
    values = np.random.default_rng(samples).normal(3.0, 2.0, (4000, samples))
    low, high = mean_bounds(values)
    assert np.mean(low <= 3.0) == pytest.approx(0.95, abs=0.015)
    assert np.mean(high >= 3.0) == pytest.approx(0.95, abs=0.015)


def test_a_single_sample_has_no_bounds():
    assert mean_bounds(np.array([5.0])) == (-math.inf, math.inf)


def test_so_many_samples_move_the_bound_past_zero():
    values = np.array([-1.0, 4.0, 2.0, -2.0])
    count = samples_to_decide(values)
    assert count is not None

    def low(n: int) -> float:
        return abs(values.mean()) - student_quantile(0.95, n - 1) * values.std(ddof=1) / math.sqrt(n)

    assert low(count) >= 0 > low(count - 1)
    assert samples_to_decide(-values) == count
    assert samples_to_decide(np.array([1.0, -1.0])) is None, "no number would do"
    assert samples_to_decide(np.array([1.0, 1.0])) == 2


@pytest.mark.parametrize(
    ("hits", "drawn", "bound"), [(0, 1, 0.95), (0, 5, 0.4507), (0, 10, 0.2589), (0, 100, 0.0295), (1, 10, 0.3942), (3, 3, 1.0)]
)
def test_the_bound_of_a_share_is_that_of_clopper_and_pearson(hits, drawn, bound):
    assert share_upper_bound(hits, drawn) == pytest.approx(bound, abs=1e-4)


def test_half_way_to_infinity_is_not_a_number():
    interval = percentile_interval(np.array([1.0] * 50 + [math.inf] * 50))
    assert interval.tolist() == [1.0, math.inf]


def test_resamples_are_the_same_for_the_same_seed():
    assert resamples(5, 3).shape == (RESAMPLES, 5)
    assert (resamples(5, 3) == resamples(5, 3)).all() and not (resamples(5, 3) == resamples(5, 4)).all()


# -- shares --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hits", "drawn", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3: the score method without continuity correction.
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
        # By hand: z^2 / (10 + z^2) = 3.8415 / 13.8415; half of them is 1/2 -+ z / (2 sqrt(10 + z^2)) = 1/2 -+ 1.96 / 7.4408.
        (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0),
    ],
)  # fmt: skip
def test_wilsons_interval_is_the_published_one(hits, drawn, low, high):
    assert share_interval(hits, drawn) == pytest.approx((low, high), abs=6e-5)
    mirrored = share_interval(drawn - hits, drawn)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("first", "other", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, 873-890), table II, method 10.
        ((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926), ((0, 10), (0, 20), -0.1611, 0.2775), ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0), ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)  # fmt: skip
def test_newcombes_interval_is_the_published_one(first, other, low, high):
    assert difference_interval(*first, *other) == pytest.approx((low, high), abs=6e-5)
    assert difference_interval(*other, *first) == pytest.approx((-high, -low), abs=6e-5)


@given(st.integers(1, 500), st.data())
def test_a_share_is_in_its_interval(drawn, data):
    hits = data.draw(st.integers(0, drawn))
    low, high = share_interval(hits, drawn)
    assert 0 <= low <= hits / drawn <= high <= 1 and low < high
    assert (low == 0) == (hits == 0) and (high == 1) == (hits == drawn)
    other = data.draw(st.integers(1, 500))
    hits_of_it = data.draw(st.integers(0, other))
    low, high = difference_interval(hits, drawn, hits_of_it, other)
    assert -1 <= low <= hits / drawn - hits_of_it / other <= high <= 1 and low < high
