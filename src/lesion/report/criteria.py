"""What counts as collapsed, in words, and the k* that each criterion would have given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lesion.core.criterion import CRITERIA, CollapseCriterion
from lesion.core.metrics import METRICS
from lesion.study.result import CriterionEntry, Result

WHY = {"at chance": "the intact model is at chance itself"}
"""Why a condition is left out, where the result's own words are too short."""


@dataclass(frozen=True)
class CriterionRow:
    """One criterion.

    Attributes:
        name: For options.
        about: In words.
        chosen: Whether it is the study's own.
        k_star: In words.
        left_out: Which of its conditions decide nothing, and why.
    """

    name: str
    about: str
    chosen: bool
    k_star: str
    left_out: list[str]


def in_words(criterion: Mapping[str, Any]) -> str:
    """A criterion, as ``result.json`` holds it, in words."""
    try:
        if "conditions" in criterion:
            return str(CollapseCriterion(**criterion))
    except (ValidationError, KeyError):
        pass  # it needs a metric that is not registered here, or another version wrote it: its own description must do
    return str(criterion.get("about") or criterion.get("name") or "not recorded")


def left_out(reasons: Mapping[str, str]) -> list[str]:
    """Metric -> reason, in words."""
    labels = {name: METRICS[name].label if name in METRICS else name for name in reasons}
    return [f"{labels[name]}: {WHY.get(reason, reason)}" for name, reason in reasons.items()]


def criterion_rows(result: Result) -> list[CriterionRow]:
    """The study's own criterion first, then the others."""
    own = str(result.criterion.get("name", ""))
    entries = list(result.criteria)
    if own not in {entry.name for entry in entries}:
        entries.append(CriterionEntry(
            name=own, about=in_words(result.criterion), k_star=result.k_star, undecided=bool(result.undecided),
            left_out=result.left_out,
        ))  # fmt: skip
    rows = [CriterionRow(e.name, e.about, e.name == own, _k_star(e, result.largest_k), left_out(e.left_out)) for e in entries]
    return sorted(rows, key=lambda row: not row.chosen)


def _k_star(entry: CriterionEntry, largest: int) -> str:
    conditions = getattr(CRITERIA.get(entry.name), "conditions", ())
    if conditions and all(condition.metric in entry.left_out for condition in conditions):
        return "cannot tell"
    if entry.k_star is None:
        return "undecided" if entry.undecided else f"none up to {largest:,}"
    return f"{entry.k_star:,}, but undecided at another k" if entry.undecided else f"{entry.k_star:,}"
