"""The progressive sweep: mask the top k for growing k until the model collapses, then bisect to the exact k*."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

from lesion.ablation.search import Search
from lesion.core.criterion import Decision
from lesion.core.errors import OptionError

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


def sweep(limit: int, room: int = 1) -> Search[int, Decision, list[int]]:
    """Asks about growing k up to the collapse.

    Grows k along :func:`schedule` until the model has collapsed and does not stand at the next k, so that one at which it falls
    and rises again is not taken for the end. Then halves the gap before the first of the two until it closes.

    Args:
        limit: The largest k.
        room: How many k are asked about at a time, ahead of the answers.

    Yields:
        Batches of k; it is sent the criterion's decision on each.

    Returns:
        The k that belong to the curve, ascending: those that would have been asked about one at a time.

    Raises:
        OptionError: ``limit`` is less than 1.
    """
    if limit < 1:
        raise OptionError(f"the largest k is {limit}; expected at least 1")
    decisions: dict[int, Decision] = {}
    visited: list[int] = []

    def learn(ks: Sequence[int]) -> Search[int, Decision, None]:
        new = [k for k in ks if k not in decisions]
        if new:
            decisions.update(zip(new, (yield new), strict=True))

    before, first = 0, None
    steps = list(schedule(limit))
    for i, k in enumerate(steps):
        if k not in decisions:
            yield from learn(steps[i : i + room])
        visited.append(k)
        if first is not None and decisions[k] != "standing":
            break
        before, first = (before, k) if decisions[k] == "collapsed" else (k, None)
    while first is not None and first - before > 1:
        middle = (before + first) // 2
        if middle not in decisions:
            yield from learn(_middles(before, first, room))
        visited.append(middle)
        before, first = (before, middle) if decisions[middle] == "collapsed" else (middle, first)
    return sorted(visited)


def _middles(low: int, high: int, count: int) -> list[int]:
    """The first ``count`` k that halving a gap could come to, whatever the answers, nearest first."""
    gaps, middles = deque([(low, high)]), []
    while gaps and len(middles) < count:
        left, right = gaps.popleft()
        if right - left > 1:
            middle = (left + right) // 2
            middles.append(middle)
            gaps += [(left, middle), (middle, right)]
    return middles
