"""How sure a number is, against published tables and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lesion.core.statistics import (
    RESAMPLES,
    mean_bounds,
    percentile_interval,
    resamples,
    samples_to_decide,
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
