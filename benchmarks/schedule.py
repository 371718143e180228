"""The schedule, simulated: replicas that take tasks one after the other, and one process that hands them out.

:meth:`lesion.planning.load.Load.seconds` is the sum that this comes to where tasks take equally long; here each takes its own
time, so that it can be seen what waits for what (``benchmarks/scaling.py``).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WAVES = 20
"""So many tasks a replica are simulated one by one, at the end; those before them run at a steady rate."""


@dataclass(frozen=True)
class Simulated:
    """What became of a load.

    Attributes:
        seconds: Until the last task was handled.
        busy: Share of the replicas' time in which they worked.
        driver: Share of the time in which the process that hands tasks out was at work.
    """

    seconds: float
    busy: float
    driver: float


@dataclass(frozen=True)
class Pool:
    """Replicas, and the process that drives them.

    Attributes:
        replicas: How many.
        send: Seconds that the process takes to hand out a task.
        travel: Seconds until a task has arrived, and its answer is back.
        handle: Seconds that the process takes for what comes of a task.
        spread: Standard deviation of a task's time, as a share of its mean.
    """

    replicas: int
    send: float = 0.0
    travel: float = 0.0
    handle: float = 0.0
    spread: float = 0.0

    def run(self, tasks: int, seconds: float, seed: int = 0) -> Simulated:
        """Tasks that take ``seconds`` on average (drawn from a gamma distribution)."""
        one_by_one = min(tasks, WAVES * self.replicas)
        steady = tasks - one_by_one
        # Whoever is slower sets the pace: the replicas, or the process that serves them one after the other.
        pace = max((seconds + self.travel) / self.replicas, self.send + self.handle)
        drawn = self._drawn(one_by_one, seconds, seed)
        whole = steady * pace + self._run(drawn)
        work, serving = steady * seconds + float(drawn.sum()), tasks * (self.send + self.handle)
        return Simulated(whole, work / (self.replicas * whole) if whole else 1.0, serving / whole if whole else 0.0)

    def _drawn(self, count: int, mean: float, seed: int) -> np.ndarray:
        if not self.spread:
            return np.full(count, mean)
        shape = 1 / self.spread**2
        return np.random.default_rng(seed).gamma(shape, mean / shape, count)

    def _run(self, durations: Sequence[float] | np.ndarray) -> float:
        """Event by event; the seconds until all is handled."""
        driver, done = 0.0, list[float]()
        waiting = iter(durations)
        for _ in range(min(self.replicas, len(durations))):
            driver += self.send
            heapq.heappush(done, driver + self.travel + float(next(waiting)))
        while done:
            driver = max(driver, heapq.heappop(done))
            following = next(waiting, None)
            if following is not None:
                driver += self.send
                heapq.heappush(done, driver + self.travel + float(following))
            driver += self.handle
        return driver
