"""A :class:`Load`: tasks that are asked for at once; and how long replicas are at work on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lesion.planning.costs import Costs, Kind


@dataclass(frozen=True)
class Part:
    """Tasks of one kind.

    Attributes:
        kind: What is done.
        tasks: How many.
        passes: How many samples go through the model in all of them, each under one mask.
    """

    kind: Kind
    tasks: int
    passes: int


@dataclass(frozen=True)
class Load:
    """Tasks that can be worked on at the same time; what is asked next depends on their answers."""

    parts: tuple[Part, ...]

    @property
    def passes(self) -> int:
        return sum(part.passes for part in self.parts)

    def seconds(self, costs: Costs, replicas: int) -> float:
        """How long it takes.

        A replica is given its next task when it has done one, so the last wave may leave some without work. The study's process
        makes something of each answer in the meantime; where it is slower than the replicas, they wait for it.
        """
        if replicas == 0:
            return sum(costs.compute(p.kind, p.tasks, p.passes) + costs.handle(p.kind, p.passes) for p in self.parts)
        tasks = sum(part.tasks for part in self.parts)
        each = [costs.compute(p.kind, p.tasks, p.passes) / p.tasks for p in self.parts if p.tasks]
        mean = sum(costs.compute(p.kind, p.tasks, p.passes) for p in self.parts) / max(tasks, 1)
        # As many waves as there must be; where tasks differ, what is left of the longest is not shared.
        waves = max(math.ceil(tasks / replicas) * mean, max(each, default=0.0))
        return max(waves, sum(costs.handle(p.kind, p.passes) for p in self.parts))


def load(kind: Kind, tasks: int, passes: int) -> Load:
    """Of tasks of one kind."""
    return Load((Part(kind, tasks, passes),))
