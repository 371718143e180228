"""Curves with known answers, made from numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.outcome import Likelihood, SampleOutcome

CHANCE = 20.0


def outcome(i: int, nll: float, clip: float) -> SampleOutcome:
    value = Likelihood(nll if math.isfinite(nll) else None, 10)
    return SampleOutcome(f"s{i}", "text", value, value, value, clip, 0.0, 1.0, False, 0.0, 0.0, "degraded")


def point(k: int, nlls: Iterable[float], clips: Iterable[float]) -> Evaluation:
    return Evaluation(k, tuple(outcome(i, n, c) for i, (n, c) in enumerate(zip(nlls, clips, strict=True))))


def curve(ks: Sequence[int], nll: Sequence[float], clip: Sequence[float], samples: int = 8) -> Curve:
    """Every sample a little above or below the given means, by the same amount at every k."""
    shift = [0.01 * (i - (samples - 1) / 2) for i in range(samples)]
    points = [point(k, [n + s for s in shift], [c + s for s in shift]) for k, n, c in zip(ks, nll, clip, strict=True)]
    return Curve(points, [CHANCE] * samples)
