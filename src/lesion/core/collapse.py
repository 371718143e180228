"""A :class:`Collapse`: what a curve says. Where stage 1 begins, where the model collapses, and how sure that is.

* stage 1 begins at the smallest k that is worse than intact by more than sampling noise: the 95 % interval of the paired
  bootstrap over samples lies beyond a tolerance of 1 %, for the perplexity or for the CLIP score;
* k* is the smallest k at which the criterion (:mod:`lesion.core.criterion`) says collapsed, and does not say standing at the
  next k that was evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lesion.core.criterion import COLLAPSED, CRITERIA, STANDING, Baseline, Criterion, Decision, decide
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.statistics import CONFIDENCE, FEWEST, RESAMPLES, resamples

TOLERANCE = 0.01
"""Stage 1 ignores changes of less than this share, however sure they are: no masking is without any effect at all."""
NOTABLE_FALL = 0.1
"""A curve is called not monotone for falls of the perplexity of at least so many powers of ten, beyond sampling noise."""


@dataclass(frozen=True)
class Collapse:
    """What a curve says.

    Attributes:
        stage1_k: Smallest evaluated k that is worse than intact; None if none is, or the samples are too few to tell.
        k_star: Smallest k that collapses and is not followed by one at which the model stands; None if none does.
        k_star_ci: 95 % bootstrap interval of k* over samples; an end is None where the resamples have no collapse, both are
            without k* or with too few samples.
        largest_k: Largest k that was evaluated.
        monotone: False where a collapsed k is followed by one that stands, or the perplexity falls notably before k*.
        collapsed: The evaluated k at which the model has collapsed.
        undecided: The evaluated k at which the samples do not decide.
        samples: On how many samples it was measured.
        samples_needed: About how many would decide the first undecided k; None where none is, or it cannot be said.
        left_out: Metric -> why the criterion's condition on it decides nothing here.
    """

    stage1_k: int | None
    k_star: int | None
    k_star_ci: tuple[int | None, int | None]
    largest_k: int
    monotone: bool
    collapsed: tuple[int, ...]
    undecided: tuple[int, ...]
    samples: int
    samples_needed: int | None
    left_out: dict[str, str]

    @property
    def enough_samples(self) -> bool:
        """Whether there are enough samples for an interval."""
        return self.samples >= FEWEST

    def interval(self) -> str:
        """The interval of k* in words."""
        if self.k_star is None:
            return "no k*, hence no interval"
        if not self.enough_samples:
            return f"no interval: {self._too_few()}"
        low, high = self.k_star_ci
        if low is None:
            return f"no interval: few resamples of the {self.samples} samples collapse up to k = {self.largest_k:,}"
        if high is None:
            return f"95 % interval from {low:,} up: some resamples of the samples do not collapse up to k = {self.largest_k:,}"
        return f"95 % interval over samples {low:,} to {high:,}"

    def _too_few(self) -> str:
        measured = "1 measured sample is" if self.samples == 1 else f"{self.samples} measured samples are"
        return f"{measured} too few (at least {FEWEST} are needed)"

    def stage1(self) -> str:
        """Stage 1 in words."""
        if not self.enough_samples:
            return f"not tested: {self._too_few()}"
        return "not seen" if self.stage1_k is None else f"begins at k = {self.stage1_k:,}"


def detect_collapse(curve: Curve, seed: int = 0, criterion: Criterion | None = None) -> Collapse:
    """Reads a curve.

    Args:
        curve: At least the intact point.
        seed: Of the bootstrap.
        criterion: Default: ``paper``.
    """
    criterion = criterion or next(iter(CRITERIA.values()))
    baseline = Baseline(curve.intact, curve.chance)
    samples, later = len(curve.intact.outcomes), curve.points[1:]
    draws = resamples(samples, seed)
    decisions: list[Decision] = [decide(criterion, baseline, p) for p in later]
    ks = [p.k for p in later]
    everyone = np.arange(samples)[None]
    first = _first_lasting(_decisions(criterion, baseline, later, everyone))[0]
    interval: tuple[int | None, int | None] = (None, None)
    if first is not None and samples >= FEWEST:
        interval = _interval(_first_lasting(_decisions(criterion, baseline, later, draws)), ks)
    undecided = [p for p, d in zip(later, decisions, strict=True) if d == "undecided"]
    worse = [samples >= FEWEST and _is_worse(baseline, p, draws) for p in later]
    return Collapse(
        stage1_k=next((k for k, w in zip(ks, worse, strict=True) if w), None),
        k_star=None if first is None else ks[first],
        k_star_ci=interval,
        largest_k=curve.ks[-1],
        monotone=_is_monotone(curve, decisions, None if first is None else ks[first], draws),
        collapsed=tuple(k for k, d in zip(ks, decisions, strict=True) if d == "collapsed"),
        undecided=tuple(p.k for p in undecided),
        samples=samples,
        samples_needed=criterion.samples_needed(baseline, undecided[0]) if undecided else None,
        left_out=criterion.left_out(baseline),
    )


def _is_worse(baseline: Baseline, point: Evaluation, draws: np.ndarray) -> bool:
    """Whether a point is worse than the intact one by more than sampling noise (paired bootstrap)."""
    intact, tail = baseline.intact, (1 - CONFIDENCE) / 2
    if not np.isfinite(point.nll).all():
        return True
    rise = (point.nll - intact.nll)[draws].sum(1) / point.tokens[draws].sum(1)  # [resamples]
    if np.quantile(rise, tail) > math.log1p(TOLERANCE):
        return True
    if baseline.chance is None or point.clip is None or intact.clip is None:
        return False
    fall = (intact.clip - point.clip)[draws].mean(1)  # [resamples]
    gap = max(float((intact.clip - baseline.chance).mean()), 0.0)
    return bool(np.quantile(fall, tail) > TOLERANCE * gap)


def _decisions(criterion: Criterion, baseline: Baseline, points: Sequence[Evaluation], draws: np.ndarray) -> np.ndarray:
    """The criterion's decisions, int8 ``[points, resamples]``."""
    rows = [criterion.decide_in(baseline, p, draws) for p in points]
    return np.stack(rows) if rows else np.empty((0, len(draws)), dtype=np.int8)


def _first_lasting(decisions: np.ndarray) -> list[int | None]:
    """For each column, the first row that has collapsed and is not followed by one that stands."""
    recovers = np.vstack([decisions[1:] == STANDING, np.zeros((min(1, len(decisions)), decisions.shape[1]), dtype=bool)])
    lasting = (decisions == COLLAPSED) & ~recovers
    return [int(column.argmax()) if column.any() else None for column in lasting.T]


def _interval(firsts: list[int | None], ks: list[int]) -> tuple[int | None, int | None]:
    """Percentile interval of k*; a resample without a collapse counts as infinitely many neurons."""
    values = np.sort(np.array([math.inf if i is None else float(ks[i]) for i in firsts]))
    tail = (1 - CONFIDENCE) / 2
    low, high = values[int(tail * RESAMPLES)], values[min(RESAMPLES - 1, int((1 - tail) * RESAMPLES))]
    return (int(low) if math.isfinite(low) else None, int(high) if math.isfinite(high) else None)


def _is_monotone(curve: Curve, decisions: list[Decision], k_star: int | None, draws: np.ndarray) -> bool:
    """No recovery after a collapse, and before k* no fall of the perplexity that is notable and beyond noise."""
    if any(before == "collapsed" and after == "standing" for before, after in pairwise(decisions)):
        return False
    if draws.shape[1] < FEWEST:
        return True  # too few samples to tell a fall from noise
    standing = [p for p in curve.points if k_star is None or p.k < k_star]
    for before, after in pairwise(standing):
        if np.isfinite(before.nll).all() and np.isfinite(after.nll).all():
            fall = (before.nll - after.nll)[draws].sum(1) / before.tokens[draws].sum(1)  # [resamples]
            if np.quantile(fall, (1 - CONFIDENCE) / 2) > NOTABLE_FALL * math.log(10):
                return False
    return True
