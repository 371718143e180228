"""The :class:`Harm` that masking a set does: what a measured search goes by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lesion.ablation.measure import Ablation
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import pool


@dataclass(frozen=True)
class Harm:
    """What masking a set does.

    Attributes:
        rise: Of the mean NLL of the reference answers, in nats; infinite where that is not finite.
        collapsed: Whether the criterion says so.
    """

    rise: float
    collapsed: bool


def harms(ablation: Ablation, sets: Sequence[NeuronSet]) -> list[Harm]:
    """What masking each of the sets does."""
    intact, readings = pool(ablation.readings([NeuronSet()])[0]).nll, ablation.readings(sets)
    rises = [math.inf if (nll := pool(r).nll) is None or intact is None else nll - intact for r in readings]
    return [Harm(rise, fallen) for rise, fallen in zip(rises, ablation.collapses(sets), strict=True)]
