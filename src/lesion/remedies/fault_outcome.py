"""What became of a model with a fault, and how often: outcome classes, shares and their intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from lesion.core.criterion import Baseline, Criterion
from lesion.core.outcome import Likelihood, pool
from lesion.core.statistics import difference_interval, share_interval

Outcome = Literal["masked", "degraded", "collapsed", "non-finite"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""From nothing to the worst. ``masked`` is the word of fault injection: the fault does not show."""
FAILED: tuple[Outcome, ...] = ("collapsed", "non-finite")
"""Outcomes after which the model is of no use."""
SHOWS = math.log(1.01)
"""A fault shows where the mean NLL of the reference answers, in nats, moves by more than this: 1 % of the perplexity."""


def outcome_of(criterion: Criterion, baseline: Baseline, reading: Sequence[Likelihood]) -> Outcome:
    """What became of a model.

    Args:
        criterion: Says what is collapsed; it must look at the perplexity of the reference answers alone.
        baseline: The intact model.
        reading: How likely the reference answers are, one a sample.
    """
    after, before = pool(reading).nll, pool([o.reference for o in baseline.intact.outcomes]).nll
    if after is None:
        return "non-finite"
    if criterion.decide_early(baseline, reading) == "collapsed":
        return "collapsed"
    return "masked" if before is not None and abs(after - before) <= SHOWS else "degraded"


class Shares(BaseModel):
    """How often each outcome came."""

    name: str = Field(description="which faults")
    drawn: int
    different: int = Field(description="so many of the trials drawn are not the same as another")
    counts: dict[Outcome, int]
    failed: float = Field(description="share of faults after which the model has collapsed, or is not finite")
    interval: tuple[float, float] = Field(description="of that share; Wilson, 95 %")

    @classmethod
    def of(cls, name: str, outcomes: Iterable[Outcome], different: int) -> Shares:
        """Counts outcomes, of which there is at least one."""
        counts = Counter(outcomes)
        drawn, failed = counts.total(), sum(counts[outcome] for outcome in FAILED)
        return cls(
            name=name, drawn=drawn, different=different, counts={outcome: counts[outcome] for outcome in OUTCOMES},
            failed=failed / drawn, interval=share_interval(failed, drawn),
        )  # fmt: skip

    @property
    def failures(self) -> int:
        return sum(self.counts[outcome] for outcome in FAILED)


class Contrast(BaseModel):
    """Two kinds of faults held against each other."""

    more: str
    less: str
    difference: float = Field(description="share that failed of the one, less that of the other")
    interval: tuple[float, float] = Field(description="Newcombe, 95 %")

    @classmethod
    def of(cls, more: Shares, less: Shares) -> Contrast:
        """The first less the second."""
        interval = difference_interval(more.failures, more.drawn, less.failures, less.drawn)
        return cls(more=more.name, less=less.name, difference=more.failed - less.failed, interval=interval)

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0

    def __str__(self) -> str:
        low, high = (f"{100 * end:.1f}" for end in self.interval)
        says = "" if self.differs else ", which does not tell them apart"
        return (
            f"{self.more} less {self.less}: {100 * self.difference:+.1f} points of faults fail "
            f"(95 % interval {low} to {high}){says}"
        )


def grouped(entries: Sequence[dict[str, Any]], by: str) -> list[Shares]:
    """Shares of the entries of a journal by a key of theirs, in its order; those without one are left out."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry[by] is not None:
            groups.setdefault(entry[by], []).append(entry)
    return [
        Shares.of(str(key), (entry["outcome"] for entry in members), len({entry["trial"] for entry in members}))
        for key, members in sorted(groups.items())  # numbers by size
    ]
