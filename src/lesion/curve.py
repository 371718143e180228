"""A :class:`Curve`: number of masked neurons -> what was measured, with every sample's values kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lesion.metrics import Judged, mode_shares, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """One k of a curve.

    Attributes:
        k: How many neurons were masked.
        judged: One entry a sample, in the same order at every k.
    """

    k: int
    judged: tuple[Judged, ...]

    @property
    def metrics(self) -> dict[str, float | None]:
        return summarise(self.judged)

    @property
    def modes(self) -> dict[str, float]:
        return dict(mode_shares(self.judged))

    @property
    def nll(self) -> np.ndarray:
        """Summed negative log-likelihood of each sample's reference, ``[samples]``; infinite where not finite."""
        return np.array([math.inf if j.reference.nll is None else j.reference.nll * j.reference.tokens for j in self.judged])

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each sample's reference, ``[samples]``."""
        return np.array([j.reference.tokens for j in self.judged], dtype=float)

    @property
    def clip(self) -> np.ndarray | None:
        """Each sample's CLIP score, ``[samples]``; None without a CLIP model."""
        scores = [j.clip for j in self.judged if j.clip is not None]
        return np.array(scores) if len(scores) == len(self.judged) else None


RESAMPLES, CONFIDENCE = 2000, 0.95
"""Of every bootstrap over samples."""


def resamples(samples: int, seed: int) -> np.ndarray:
    """Which samples each bootstrap resample holds, ``[RESAMPLES, samples]``."""
    return np.random.default_rng(seed).integers(samples, size=(RESAMPLES, samples))


@dataclass(frozen=True)
class Bands:
    """95 % percentile bootstrap intervals over samples; each array is ``[points, 2]``, low and high.

    Attributes:
        nll: Of the mean negative log-likelihood of the references' tokens; infinite where a resample has one that is
            not finite.
        clip: Of the mean CLIP score; None without a CLIP model.
    """

    nll: np.ndarray
    clip: np.ndarray | None


class Curve:
    """Points in ascending k. The first is the intact model.

    Args:
        points: In any order; the sample ids must be the same at every k.
        chance: Each sample's CLIP score at chance level, ``[samples]``; None without a CLIP model.

    Raises:
        ValueError: No point with k = 0, two points with the same k, or differing samples.
    """

    def __init__(self, points: Sequence[Point], chance: Sequence[float] | None = None) -> None:
        self.points = sorted(points, key=lambda p: p.k)
        self.chance = None if chance is None else np.asarray(chance, dtype=float)
        if not self.points or self.points[0].k != 0:
            raise ValueError("a curve needs the intact model, k = 0")
        if len(self.ks) != len(set(self.ks)):
            raise ValueError(f"two points have the same k: {self.ks}")
        if len({tuple(j.id for j in p.judged) for p in self.points}) != 1:
            raise ValueError("every point of a curve must be measured on the same samples, in the same order")

    @property
    def ks(self) -> list[int]:
        return [p.k for p in self.points]

    @property
    def intact(self) -> Point:
        return self.points[0]

    def at(self, k: int) -> Point:
        """The point of a k that was evaluated.

        Raises:
            KeyError: It was not.
        """
        for point in self.points:
            if point.k == k:
                return point
        raise KeyError(k)

    def bands(self, seed: int = 0) -> Bands:
        """How far each point could be off, had other images been drawn."""
        draws = resamples(len(self.intact.judged), seed)
        nll = [_interval(p.nll[draws].sum(1) / p.tokens[draws].sum(1)) for p in self]
        scores = [p.clip for p in self]
        clip = [_interval(s[draws].mean(1)) for s in scores if s is not None]
        return Bands(np.array(nll), np.array(clip) if len(clip) == len(scores) else None)

    def plot(self, title: str = "") -> Figure:
        """The two-stage curve as a figure.

        Args:
            title: Above the figure.
        """
        from lesion.collapse import find
        from lesion.report.figures import plot_curve

        return plot_curve(self, find(self), title)

    def _repr_html_(self) -> str:
        from lesion.report.notebook import of_curve

        return of_curve(self)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)


def _interval(values: np.ndarray) -> np.ndarray:
    """Low and high end; no interpolation, since half way to infinity is not a number."""
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(values, [tail, 1 - tail], method="nearest")
