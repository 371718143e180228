"""The progressive sweep: mask the top k for growing k until the model collapses, then bisect to the exact k*."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from lesion.curve import Point
from lesion.errors import OptionError

DENSE = 4096
"""Up to here the schedule has two steps an octave; beyond, one, so that the bisection's steps fit the budget too."""


def schedule(limit: int) -> Iterator[int]:
    """0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ..., 4096, 8192, ... and at last ``limit`` itself."""
    steps = [0, 1, 2]
    while steps[-1] < limit:
        steps += [steps[-1] // 2 * 3, steps[-1] * 2] if steps[-1] < DENSE else [steps[-1] * 2]
    yield from (k for k in steps if k < limit)
    yield limit


def budget(limit: int) -> int:
    """At most so many points are evaluated: ``2 log2(limit) + 20``."""
    return int(2 * math.log2(max(limit, 1)) + 20)


def sweep(evaluate: Callable[[int], Point], collapsed: Callable[[Point], bool], limit: int) -> list[Point]:
    """Evaluates a curve up to its collapse.

    Grows k along :func:`schedule` until two successive points have collapsed, so that a k at which the model falls and
    rises again is not taken for the end. Then halves the gap before the first of the two until it closes; the points
    found that way are part of the curve.

    Args:
        evaluate: k -> point; called once for each k.
        collapsed: The verdict on a point.
        limit: The largest k.

    Returns:
        The points, by ascending k.

    Raises:
        OptionError: ``limit`` is less than 1.
    """
    if limit < 1:
        raise OptionError(f"the largest k is {limit}; expected at least 1")
    points: dict[int, Point] = {}
    fallen: dict[int, bool] = {}

    def visit(k: int) -> bool:
        points[k] = evaluate(k)
        fallen[k] = collapsed(points[k])
        return fallen[k]

    before, first = 0, None
    for k in schedule(limit):
        if visit(k):
            if first is not None:
                break
            first = k
        else:
            before, first = k, None
    while first is not None and first - before > 1:
        middle = (before + first) // 2
        if visit(middle):
            first = middle
        else:
            before = middle
    return [points[k] for k in sorted(points)]
