"""The :class:`CollapseCriterion`: when a masked model counts as collapsed, as data.

A criterion has conditions on metrics and a rule that joins them. Each condition holds, does not hold, or cannot be told from
the samples at hand; so a model has ``collapsed``, is ``standing``, or is ``undecided``. The tests:

``decades``
    The perplexity has risen by at least ``limit`` powers of ten above the intact one.
``at-chance``
    No more than the share ``limit`` of the intact score's distance from chance is left. It holds where the upper 95 % bound of
    what is left says so, and fails where the lower one says not; in between, the samples are too few. Where the intact score
    is itself no better than chance, this test can tell nothing and is left out.
``at-least``
    The metric's mean is at least ``limit``.

The default, ``paper``, is the reading of arXiv 2512.00918 by which a collapse needs both: the perplexity is ten times the
intact one, and the CLIP score is at its chance level. Another criterion is data, or any function::

    @register_criterion("silence", "every answer is empty")
    def silence(intact: Evaluation, masked: Evaluation) -> bool:
        return all(not outcome.answer for outcome in masked.outcomes)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lesion.core.errors import OptionError
from lesion.core.evaluation import Evaluation
from lesion.core.metrics import METRICS
from lesion.core.modes import CHANCE_MARGIN
from lesion.core.outcome import Likelihood
from lesion.core.statistics import FEWEST, mean_bounds, samples_to_decide

Decision = Literal["collapsed", "standing", "undecided"]
COLLAPSED, STANDING, UNDECIDED = 1, 0, -1
"""Decisions in arrays of resamples."""
_WORDS: dict[int, Decision] = {COLLAPSED: "collapsed", STANDING: "standing", UNDECIDED: "undecided"}

COLLAPSE_DECADES = 1.0
"""The default criterion needs a perplexity this many powers of ten above the intact one."""
NO_GAP = 2.0
"""An intact score that is less than so many points above chance, and not surely above it, is at chance itself."""
FEWER_RESAMPLES = 200
"""For a criterion that is a function, which is called once a resample."""


@dataclass(frozen=True)
class Baseline:
    """What masked models are held against.

    Attributes:
        intact: The evaluation with nothing masked.
        chance: Each sample's CLIP score at chance level, ``[samples]``; None without a CLIP model.
    """

    intact: Evaluation
    chance: np.ndarray | None


MOST = 1e300
"""No limit is larger."""
MOST_DECADES = 300
"""A number holds hardly more powers of ten."""


class Condition(BaseModel):
    """One test of one metric; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    test: Literal["decades", "at-chance", "at-least"]
    limit: float = Field(ge=-MOST, le=MOST)
    chance: float | None = Field(default=None, description="chance level; None for each sample's own, which the CLIP score has")

    @model_validator(mode="after")
    def _in_range(self) -> Condition:
        if self.test == "decades" and abs(self.limit) > MOST_DECADES:
            raise ValueError(f"a limit of {self.limit:g} powers of ten; expected at most {MOST_DECADES}")
        return self

    def values(self, evaluation: Evaluation) -> np.ndarray | None:
        """The metric of every sample, ``[samples]``; None where it was not measured."""
        values = [METRICS[self.metric].value(outcome) for outcome in evaluation.outcomes]
        if any(v is None or isinstance(v, Likelihood) for v in values):
            return None
        return np.array(values, dtype=float)

    def remainder(self, baseline: Baseline, evaluation: Evaluation) -> np.ndarray | None:
        """Of ``at-chance``: how far each sample is above what counts as chance, ``[samples]``; None where not measured."""
        before, after = self.values(baseline.intact), self.values(evaluation)
        level = baseline.chance if self.chance is None else np.array(self.chance)
        if before is None or after is None or level is None:
            return None
        return (after - level) - self.limit * np.maximum((before - level).mean(), 0.0)

    def standing(self, baseline: Baseline) -> Literal["usable", "not measured", "at chance", "too few"]:
        """Whether the intact model leaves something to decide by."""
        if self.test != "at-chance":
            measured = self.test == "decades" or self.values(baseline.intact) is not None
            return "usable" if measured else "not measured"
        before = self.values(baseline.intact)
        level = baseline.chance if self.chance is None else np.array(self.chance)
        if before is None or level is None:
            return "not measured"
        gap = before - level
        if mean_bounds(gap)[0] > 0:
            return "usable"
        floor = NO_GAP if self.chance is None else NO_GAP / 100
        return "at chance" if len(gap) >= FEWEST and gap.mean() < floor else "too few"

    def holds_in(self, baseline: Baseline, evaluation: Evaluation, draws: np.ndarray) -> np.ndarray:
        """Decisions in resamples.

        Args:
            baseline: The intact model.
            evaluation: Of the same samples.
            draws: Indices of samples, ``[resamples, samples]``.

        Returns:
            int8 ``[resamples]``: :data:`COLLAPSED`, :data:`STANDING` or :data:`UNDECIDED`.
        """
        if self.test == "decades":
            return self.risen(self.likelihoods(baseline.intact), self.likelihoods(evaluation), draws)
        values = self.remainder(baseline, evaluation) if self.test == "at-chance" else self.values(evaluation)
        if values is None:
            return np.full(len(draws), UNDECIDED, dtype=np.int8)
        if self.test == "at-least":
            return (values[draws].mean(1) >= self.limit).astype(np.int8)
        low, high = mean_bounds(values[draws])
        return np.where(high <= 0, COLLAPSED, np.where(low > 0, STANDING, UNDECIDED)).astype(np.int8)

    def likelihoods(self, evaluation: Evaluation) -> list[Likelihood]:
        """Of ``decades``: what the perplexity is made of, one a sample."""
        return [getattr(outcome, self.metric.removeprefix("ppl_")) for outcome in evaluation.outcomes]

    def risen(self, intact: Sequence[Likelihood], masked: Sequence[Likelihood], draws: np.ndarray) -> np.ndarray:
        """:meth:`holds_in` of ``decades``, from one likelihood a sample."""

        def sums(parts: Sequence[Likelihood]) -> tuple[np.ndarray, np.ndarray]:
            nll = np.array([math.inf if p.nll is None else p.nll * p.tokens for p in parts])
            return nll[draws].sum(1), np.array([float(p.tokens) for p in parts])[draws].sum(1)

        (before, tokens_before), (after, tokens_after) = sums(intact), sums(masked)
        with np.errstate(invalid="ignore"):  # a baseline that is not finite cannot be exceeded
            rise = (after / np.maximum(tokens_after, 1) - before / np.maximum(tokens_before, 1)) / math.log(10)
        return ((rise >= self.limit) & ~np.isnan(rise)).astype(np.int8)

    def __str__(self) -> str:
        label = METRICS[self.metric].label if self.metric in METRICS else self.metric
        if self.test == "decades":
            return f"{label} at least {10**self.limit:g} times the intact model's"
        if self.test == "at-least":
            return f"{label} at least {METRICS[self.metric].show(self.limit)}"
        return f"{label} at chance (at most {100 * self.limit:.0f} % of its distance from chance left)"


class CollapseCriterion(BaseModel):
    """Conditions and the rule that joins them.

    Attributes:
        name: For options and files.
        about: One line for people.
        rule: Whether all conditions must hold, or any.
        conditions: At least one; those that cannot tell anything of a model are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str = ""
    rule: Literal["all", "any"] = "all"
    conditions: tuple[Condition, ...] = Field(min_length=1)

    def usable(self, baseline: Baseline) -> list[Condition]:
        """The conditions that can decide: measured, and not already at chance in the intact model."""
        return [c for c in self.conditions if c.standing(baseline) in ("usable", "too few")]

    def left_out(self, baseline: Baseline) -> dict[str, str]:
        """Metric -> why its condition decides nothing."""
        return {c.metric: s for c in self.conditions if (s := c.standing(baseline)) in ("not measured", "at chance")}

    def decide_in(self, baseline: Baseline, evaluation: Evaluation, draws: np.ndarray) -> np.ndarray:
        """Decisions in resamples; arguments and return value as :meth:`Condition.holds_in`."""
        usable = self.usable(baseline)
        if not usable:
            return np.full(len(draws), UNDECIDED, dtype=np.int8)
        every = np.stack([
            np.full(len(draws), UNDECIDED, dtype=np.int8)
            if c.standing(baseline) == "too few" else c.holds_in(baseline, evaluation, draws)
            for c in usable
        ])  # fmt: skip
        stop, need = (STANDING, COLLAPSED) if self.rule == "all" else (COLLAPSED, STANDING)
        return np.where((every == stop).any(0), stop, np.where((every == need).all(0), need, UNDECIDED)).astype(np.int8)

    def early(self, baseline: Baseline) -> list[Condition]:
        """The conditions that need no answer of the masked model's own."""
        return [c for c in self.usable(baseline) if c.metric == "ppl_reference"]

    def decide_early(self, baseline: Baseline, reference: Sequence[Likelihood]) -> Decision | None:
        """What is decided before the masked model has answered.

        Args:
            baseline: The intact model.
            reference: Likelihoods that the masked model gives the reference answers, one a sample.

        Returns:
            None where the answers may decide otherwise.
        """
        usable, early, everyone = self.usable(baseline), self.early(baseline), np.arange(len(reference))[None]
        found = [int(c.risen(c.likelihoods(baseline.intact), reference, everyone)[0]) for c in early]
        stop, need = (STANDING, COLLAPSED) if self.rule == "all" else (COLLAPSED, STANDING)
        if stop in found:
            return _WORDS[stop]
        return _WORDS[need] if found and len(early) == len(usable) else None

    def samples_needed(self, baseline: Baseline, evaluation: Evaluation) -> int | None:
        """About how many samples would decide an undecided point, if mean and spread stay; None where that cannot be said."""
        counts: list[int] = []
        for condition in self.usable(baseline):
            values = condition.remainder(baseline, evaluation) if condition.test == "at-chance" else None
            if values is not None and len(values) > 1 and (count := samples_to_decide(values)) is not None:
                counts.append(count)
        return max(counts, default=None)

    def __str__(self) -> str:
        return (" and " if self.rule == "all" else " or ").join(map(str, self.conditions))


Judgement = Callable[[Evaluation, Evaluation], "bool | None"]


class FunctionCriterion:
    """A criterion that is a Python function of the intact and the masked evaluation; None for undecided."""

    def __init__(self, name: str, about: str, function: Judgement) -> None:
        self.name, self.about, self.function = name, about, function

    def decide_in(self, baseline: Baseline, evaluation: Evaluation, draws: np.ndarray) -> np.ndarray:
        """As :meth:`CollapseCriterion.decide_in`; at most :data:`FEWER_RESAMPLES` resamples, repeated."""
        few = draws[:FEWER_RESAMPLES]
        decided = np.array([self._decide(_drawn(baseline.intact, row), _drawn(evaluation, row)) for row in few], dtype=np.int8)
        return np.resize(decided, len(draws))

    def _decide(self, intact: Evaluation, masked: Evaluation) -> int:
        decision = self.function(intact, masked)
        return UNDECIDED if decision is None else int(bool(decision))

    def early(self, baseline: Baseline) -> list[Condition]:
        return []

    def decide_early(self, baseline: Baseline, reference: Sequence[Likelihood]) -> Decision | None:
        return None

    def left_out(self, baseline: Baseline) -> dict[str, str]:
        return {}

    def samples_needed(self, baseline: Baseline, evaluation: Evaluation) -> int | None:
        return None

    def model_dump(self) -> dict[str, Any]:
        """As JSON has it; the function itself is known by its name alone."""
        return {"name": self.name, "about": self.about, "function": f"{self.function.__module__}.{self.function.__qualname__}"}

    def __str__(self) -> str:
        return self.about or self.name


Criterion = CollapseCriterion | FunctionCriterion


def _drawn(evaluation: Evaluation, draw: Sequence[int] | np.ndarray) -> Evaluation:
    return Evaluation(evaluation.k, tuple(evaluation.outcomes[int(i)] for i in draw), evaluation.key)


def decide(criterion: Criterion, baseline: Baseline, evaluation: Evaluation) -> Decision:
    """What a criterion says of an evaluation, on the samples as they are."""
    everyone = np.arange(len(evaluation.outcomes))[None]
    return _WORDS[int(criterion.decide_in(baseline, evaluation, everyone)[0])]


def told(decision: Decision | None) -> bool | None:
    """A decision as files have it: whether the model has collapsed; None where that was not measured or is undecided."""
    return None if decision in (None, "undecided") else decision == "collapsed"


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        CollapseCriterion(
            name="paper", about="perplexity ten times the intact one, and CLIP score at chance",
            conditions=(
                Condition(metric="ppl_reference", test="decades", limit=COLLAPSE_DECADES, chance=None),
                Condition(metric="clip_score", test="at-chance", limit=CHANCE_MARGIN, chance=None),
            ),
        ),
        CollapseCriterion(
            name="perplexity", about="perplexity ten times the intact one",
            conditions=(Condition(metric="ppl_reference", test="decades", limit=COLLAPSE_DECADES, chance=None),),
        ),
        CollapseCriterion(
            name="degeneration", about="at least half of the answers are off-topic, repetition, gibberish or empty",
            conditions=(Condition(metric="collapsed_modes", test="at-least", limit=0.5, chance=None),),
        ),
        CollapseCriterion(
            name="task", about="yes/no questions are answered no better than by a coin",
            conditions=(Condition(metric="accuracy", test="at-chance", limit=CHANCE_MARGIN, chance=0.5),),
        ),
    )
}  # fmt: skip
"""By name. The first is the default."""


def register_criterion(name: str, about: str = "") -> Callable[[Judgement], Judgement]:
    """Adds a function of the intact and the masked evaluation under a name.

    Raises:
        ValueError: The name is taken.
    """

    def add(function: Judgement) -> Judgement:
        if name in CRITERIA:
            raise ValueError(f"a criterion named {name!r} is registered already")
        CRITERIA[name] = FunctionCriterion(name, about or (function.__doc__ or name).strip().split("\n")[0], function)
        return function

    return add


def get_criterion(criterion: str | Criterion) -> Criterion:
    """The criterion of a name; one that is no name as it is.

    Raises:
        OptionError: No criterion has the name, or one of its metrics is not registered.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise OptionError(f"criterion {criterion!r} is unknown; available: {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    for condition in getattr(criterion, "conditions", ()):
        if condition.metric not in METRICS:
            known = ", ".join(METRICS)
            raise OptionError(f"criterion {criterion.name!r} needs the metric {condition.metric!r}; available: {known}")
        if condition.test != "decades" and condition.metric.startswith(("ppl_", "nll_")):
            raise OptionError(
                f"criterion {criterion.name!r} tests {condition.metric!r} {condition.test}, which is pooled over tokens and "
                "has no value a sample; use a perplexity with the test decades"
            )
        if condition.test == "decades" and not condition.metric.startswith("ppl_"):
            raise OptionError(
                f"criterion {criterion.name!r} counts powers of ten of {condition.metric!r}; expected a perplexity (ppl_...)"
            )
    return criterion
