"""How sure a number is: bootstrap over samples, bounds of a mean, and bounds of a share."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

RESAMPLES, CONFIDENCE = 2000, 0.95
"""Of every bootstrap over samples."""
NORMAL = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above it."""
FEWEST = 4
"""A bootstrap of fewer samples than this is no interval: with 3, one resample in nine holds a single sample three times."""


def resamples(samples: int, seed: int) -> np.ndarray:
    """Which samples each bootstrap resample holds, ``[RESAMPLES, samples]``."""
    return np.random.default_rng(seed).integers(samples, size=(RESAMPLES, samples))


def percentile_interval(values: np.ndarray) -> np.ndarray:
    """Low and high end of the central 95 %; no interpolation, since half way to infinity is not a number."""
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(values, [tail, 1 - tail], method="nearest")


def mean_bounds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-sided 95 % bounds of means, by Student's t: each is right in 95 % of draws.

    Args:
        values: ``[..., samples]``.

    Returns:
        Lower and upper bounds ``[...]``; infinitely far apart with a single sample, which says nothing of its spread.
    """
    count = values.shape[-1]
    mean = values.mean(-1)
    if count < 2:
        return np.full_like(mean, -math.inf), np.full_like(mean, math.inf)
    reach = student_quantile(CONFIDENCE, count - 1) * values.std(-1, ddof=1) / math.sqrt(count)
    return mean - reach, mean + reach


def samples_to_decide(values: np.ndarray) -> int | None:
    """How many samples would move a bound of the mean past zero, if mean and spread stay as they are.

    Args:
        values: ``[samples]``, at least two.

    Returns:
        The number; None where the mean is zero, and no number would do.
    """
    mean, spread = abs(float(values.mean())), float(values.std(ddof=1))
    if mean == 0:
        return None
    count = 2
    while student_quantile(CONFIDENCE, count - 1) * spread / math.sqrt(count) > mean and count < 10**6:
        count = count + 1 if count < 100 else int(count * 1.05)
    return count


@cache
def student_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t distribution with a whole number of degrees of freedom, for a share of at least a half."""
    low, high = 0.0, 1.0
    while _student_share(high, freedom) < share:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, freedom) < share else (low, middle)
    return high


def _student_share(t: float, freedom: int) -> float:
    """The share of Student's distribution below t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    term = total = math.cos(angle) if freedom % 2 else 1.0
    for i in range(3 if freedom % 2 else 2, freedom, 2):
        term *= math.cos(angle) ** 2 * (i - 1) / i
        total += term
    if freedom == 1:
        within = 2 * angle / math.pi
    elif freedom % 2:
        within = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        within = math.sin(angle) * total
    return (1 + within) / 2


def share_upper_bound(hits: int, drawn: int, confidence: float = CONFIDENCE) -> float:
    """The largest share that could be true, given how many of those drawn are hits.

    One-sided Clopper-Pearson bound: the share at which so few, or fewer, would be drawn with probability
    ``1 - confidence``. With none of 10 it is 26 %, with none of 100 it is 3 %.

    Args:
        hits: How many of the drawn ones are.
        drawn: At least 1.
        confidence: Between 0 and 1.
    """

    def so_few(share: float) -> float:
        return sum(math.comb(drawn, i) * share**i * (1 - share) ** (drawn - i) for i in range(hits + 1))

    if hits == drawn:
        return 1.0
    low, high = hits / drawn, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if so_few(middle) > 1 - confidence else (low, middle)
    return high


def share_interval(hits: int, drawn: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927), which is never empty and stays within 0 and 1.

    Args:
        hits: How many of the drawn ones are.
        drawn: At least 1.
    """
    share, z = hits / drawn, NORMAL
    middle = (share + z * z / (2 * drawn)) / (1 + z * z / drawn)
    reach = z / (1 + z * z / drawn) * math.sqrt(share * (1 - share) / drawn + z * z / (4 * drawn * drawn))
    # With all or none of them an end is exact, and rounding would miss it.
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == drawn else middle + reach)


def difference_interval(hits: int, drawn: int, other_hits: int, other_drawn: int) -> tuple[float, float]:
    """95 % interval of the difference of two independent shares, the first less the second (Newcombe 1998, method 10)."""
    a, b = hits / drawn, other_hits / other_drawn
    (low_a, high_a), (low_b, high_b) = share_interval(hits, drawn), share_interval(other_hits, other_drawn)
    return a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)
