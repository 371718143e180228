"""A :class:`Curve`: number of masked neurons -> what was measured, with every sample's values kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lesion.core.display import HtmlTable
from lesion.core.evaluation import Evaluation
from lesion.core.metrics import METRICS, headline
from lesion.core.statistics import percentile_interval, resamples
from lesion.core.tables import Rows, to_frame


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


class Curve(HtmlTable):
    """Evaluations in ascending k. The first is the intact model.

    Args:
        points: In any order; the sample ids must be the same at every k.
        chance: Each sample's CLIP score at chance level, ``[samples]``; None without a CLIP model.

    Raises:
        ValueError: No point with k = 0, two points with the same k, or differing samples.
    """

    def __init__(self, points: Sequence[Evaluation], chance: Sequence[float] | np.ndarray | None = None) -> None:
        self.points = sorted(points, key=lambda p: p.k)
        self.chance = None if chance is None else np.asarray(chance, dtype=float)
        if not self.points or self.points[0].k != 0:
            raise ValueError("a curve needs the intact model, k = 0")
        if len(self.ks) != len(set(self.ks)):
            raise ValueError(f"two points have the same k: {self.ks}")
        if len({tuple(o.id for o in p.outcomes) for p in self.points}) != 1:
            raise ValueError("every point of a curve must be measured on the same samples, in the same order")

    @property
    def ks(self) -> list[int]:
        return [p.k for p in self.points]

    @property
    def intact(self) -> Evaluation:
        return self.points[0]

    def at(self, k: int) -> Evaluation:
        """The point of a k that was evaluated.

        Raises:
            KeyError: It was not.
        """
        for point in self.points:
            if point.k == k:
                return point
        raise KeyError(k)

    def bands(self, seed: int = 0) -> Bands:
        """How far each point could be off, had other samples been drawn."""
        draws = resamples(len(self.intact.outcomes), seed)
        nll = [percentile_interval(p.nll[draws].sum(1) / p.tokens[draws].sum(1)) for p in self]
        scores = [p.clip for p in self]
        clip = [percentile_interval(s[draws].mean(1)) for s in scores if s is not None]
        return Bands(np.array(nll), np.array(clip) if len(clip) == len(scores) else None)

    def table(self) -> Rows:
        """One row a point: k and every metric."""
        return [{"k": p.k, **p.metrics} for p in self]

    def to_frame(self):
        """:meth:`table` as a pandas ``DataFrame``; raises as :func:`lesion.core.tables.to_frame`."""
        return to_frame(self.table())

    def _html(self) -> tuple[str, Rows, int]:
        shown = [m.name for m in headline(self.intact.metrics)]
        rows = [{"k": p.k, **{METRICS[name].label: p.metrics[name] for name in shown}} for p in self]
        return f"Curve of {len(self.intact.outcomes):,} samples", rows, len(rows)

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Curve(k = {self.ks[0]} to {self.ks[-1]:,} in {len(self)} points, {len(self.intact.outcomes)} samples)"
