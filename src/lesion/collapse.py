"""What a curve says: where stage 1 begins, where the model collapses, and how sure that is.

Definitions (``ppl`` is ``ppl_reference``; see docs/concepts.md):

* stage 1 begins at the smallest k that is worse than intact by more than sampling noise: the 95 % interval of the paired
  bootstrap over samples lies beyond a tolerance of 1 %, for the perplexity or for the CLIP score;
* the model has collapsed at k where ``log10(ppl(k) / ppl(0)) >= 1`` and the CLIP score is at its chance level: no more
  than a tenth of its distance from chance is left, or no more than sampling noise;
* k* is the smallest k that has collapsed and is followed by another that has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lesion.curve import CONFIDENCE, RESAMPLES, Curve, Point, resamples
from lesion.metrics import CHANCE_MARGIN

COLLAPSE_DECADES = 1.0
"""Collapse needs a perplexity this many powers of ten above the intact one."""
TOLERANCE = 0.01
"""Stage 1 ignores changes of less than this share, however sure they are: no masking is without any effect at all."""
_Z = 1.645  # one-sided 95 %


@dataclass(frozen=True)
class Collapse:
    """The verdict on a curve.

    Attributes:
        stage1_k: Smallest evaluated k that is worse than intact; None if none is.
        k_star: Smallest k that collapses and stays collapsed at the next evaluated k; None if none does.
        k_star_ci: 95 % bootstrap interval of k* over samples; an end is None where the resamples have no collapse.
        largest_k: Largest k that was evaluated.
        monotone: False where a collapsed k is followed by one that is not, or the perplexity falls by more than noise
            allows between two successive k.
        collapsed: The evaluated k at which the model has collapsed.
    """

    stage1_k: int | None
    k_star: int | None
    k_star_ci: tuple[int | None, int | None]
    largest_k: int
    monotone: bool
    collapsed: tuple[int, ...]


class Judge:
    """Decides, point by point, whether a model has collapsed; made from the intact point.

    Args:
        intact: The curve's point at k = 0.
        chance: Each sample's CLIP score at chance level, or None without a CLIP model; collapse is then judged by
            perplexity alone.
    """

    def __init__(self, intact: Point, chance: np.ndarray | None) -> None:
        self.intact, self.chance = intact, chance

    def collapsed(self, point: Point) -> bool:
        """Whether the model has collapsed at a point."""
        everyone = np.arange(len(point.judged))[None]
        return bool(self.collapsed_in(point, everyone)[0])

    def collapsed_in(self, point: Point, draws: np.ndarray) -> np.ndarray:
        """The same for resamples.

        Args:
            point: A point of the curve.
            draws: Indices of samples, ``[resamples, samples]``.

        Returns:
            bool ``[resamples]``.
        """
        tokens = point.tokens[draws].sum(1)
        with np.errstate(invalid="ignore"):  # a baseline that is not finite cannot be exceeded
            rise = (point.nll[draws].sum(1) - self.intact.nll[draws].sum(1)) / tokens / math.log(10)
        lost = (rise >= COLLAPSE_DECADES) & ~np.isnan(rise)
        if self.chance is None or point.clip is None or self.intact.clip is None:
            return lost
        above = (point.clip - self.chance)[draws]
        gap = (self.intact.clip - self.chance)[draws].mean(1)
        noise = _Z * above.std(1, ddof=1) / math.sqrt(above.shape[1]) if above.shape[1] > 1 else np.zeros(len(above))
        return lost & (above.mean(1) <= np.maximum(CHANCE_MARGIN * np.maximum(gap, 0.0), noise))

    def worse(self, point: Point, draws: np.ndarray) -> bool:
        """Whether a point is worse than the intact one by more than sampling noise (paired bootstrap)."""
        if not np.isfinite(point.nll).all():
            return True
        rise = (point.nll - self.intact.nll)[draws].sum(1) / point.tokens[draws].sum(1)
        low = np.quantile(rise, (1 - CONFIDENCE) / 2)
        if low > math.log1p(TOLERANCE):
            return True
        if self.chance is None or point.clip is None or self.intact.clip is None:
            return False
        fall = (self.intact.clip - point.clip)[draws].mean(1)
        gap = max(float((self.intact.clip - self.chance).mean()), 0.0)
        return bool(np.quantile(fall, (1 - CONFIDENCE) / 2) > TOLERANCE * gap)


def find(curve: Curve, seed: int = 0) -> Collapse:
    """Reads a curve.

    Args:
        curve: At least the intact point.
        seed: Of the bootstrap.
    """
    judge = Judge(curve.intact, curve.chance)
    samples = len(curve.intact.judged)
    draws = resamples(samples, seed)
    later = curve.points[1:]
    fallen = [judge.collapsed(p) for p in later]
    in_resamples = np.array([judge.collapsed_in(p, draws) for p in later]).reshape(len(later), RESAMPLES)
    worse = [judge.worse(p, draws) for p in later]
    ks = [p.k for p in later]
    first = _first_lasting(np.array(fallen, dtype=bool)[:, None])[0]
    return Collapse(
        stage1_k=next((k for k, w in zip(ks, worse, strict=True) if w), None),
        k_star=None if first is None else ks[first],
        k_star_ci=_interval(_first_lasting(in_resamples), ks),
        largest_k=curve.ks[-1],
        monotone=_monotone(curve, judge, fallen, draws),
        collapsed=tuple(k for k, f in zip(ks, fallen, strict=True) if f),
    )


def _first_lasting(fallen: np.ndarray) -> list[int | None]:
    """For each column, the first row that has fallen and is followed by one that has; the last row needs no follower."""
    if not len(fallen):
        return [None] * fallen.shape[1]
    lasting = fallen & np.vstack([fallen[1:], np.ones((1, fallen.shape[1]), dtype=bool)])
    return [int(column.argmax()) if column.any() else None for column in lasting.T]


def _interval(firsts: list[int | None], ks: list[int]) -> tuple[int | None, int | None]:
    """Percentile interval of k*; a resample without a collapse counts as infinitely many neurons."""
    values = np.sort(np.array([math.inf if i is None else float(ks[i]) for i in firsts]))
    tail = (1 - CONFIDENCE) / 2
    low, high = values[int(tail * len(values))], values[min(len(values) - 1, int((1 - tail) * len(values)))]
    return (int(low) if math.isfinite(low) else None, int(high) if math.isfinite(high) else None)


def _monotone(curve: Curve, judge: Judge, fallen: list[bool], draws: np.ndarray) -> bool:
    """No recovery after a collapse, and no fall of the perplexity that the bootstrap takes for real."""
    if any(before and not after for before, after in pairwise(fallen)):
        return False
    for before, after in pairwise(curve.points):
        if np.isfinite(before.nll).all() and np.isfinite(after.nll).all():
            fall = (before.nll - after.nll)[draws].sum(1) / before.tokens[draws].sum(1)
            if np.quantile(fall, (1 - CONFIDENCE) / 2) > math.log1p(TOLERANCE):
                return False
    return True
