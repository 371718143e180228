"""What scoring asks for: passes over the samples that are ranked on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lesion.planning.load import Load, load
from lesion.scoring.options import ScoreOptions
from lesion.scoring.scorers import get_scorer


@dataclass(frozen=True)
class Scoring:
    """Sizes that scoring depends on.

    Attributes:
        options: Of the scorers.
        sites: How many a study scores by the dear scorers.
        samples: How many are ranked on.
        batch: So many are scored together.
    """

    options: ScoreOptions
    sites: int
    samples: int
    batch: int

    def passes(self, times: int = 1) -> Load:
        """Forward and backward passes over all samples, so many times."""
        count = times * self.samples
        return load("score", math.ceil(count / self.batch), count)

    def by(self, scorers: Iterable[str]) -> list[Load]:
        """What some scorers take; those of one kind share a pass."""
        kinds = [get_scorer(name) for name in scorers if get_scorer(name).reduce is not None]
        shared = {scorer.pass_for(self.options) for scorer in kinds if scorer.everywhere}
        if "gradient" in shared:
            shared.discard("forward")  # which it gives too
        dear = [scorer.passes(self.options, self.sites)[0] for scorer in kinds if not scorer.everywhere]
        return [self.passes() for _ in shared] + [self.passes(times) for times in dear]
