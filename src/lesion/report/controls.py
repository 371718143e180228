"""The controls beside the critical set, as the report draws them: one dot a set, by the perplexity that it causes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lesion.core.metrics import METRICS
from lesion.core.tables import show
from lesion.report.charts import LN10, RIGHT, power, show_decades
from lesion.study.control_entry import ControlGroup, by_kind
from lesion.study.result import Result

LEFT, ROW, TOP = 232, 30, 24
SPREAD = (0, -6, 6, -3, 3)
"""Dots that would lie on each other are moved up and down by so much."""
METRIC = "ppl_reference"
"""What the dots stand at."""

Style = Literal["fallen", "standing", "undecided"]


@dataclass(frozen=True)
class Mark:
    """One set."""

    x: float
    y: float
    says: str
    style: Style
    beyond: bool


@dataclass(frozen=True)
class Row:
    """The sets of one kind."""

    name: str
    y: float
    marks: list[Mark]


@dataclass(frozen=True)
class Strip:
    """The drawing.

    Attributes:
        left: Where the dots begin.
        height: Of the drawing.
        label: Of the axis.
        rows: One a kind, below the critical set.
        ticks: Of the axis.
        intact: Where the intact model is.
        limit: Where the criterion's perplexity is, and its name; None where the criterion asks for none.
        styles: Those that occur.
    """

    left: float
    height: float
    label: str
    rows: list[Row]
    ticks: list[tuple[float, str]]
    intact: float
    limit: tuple[float, str] | None
    styles: list[Style]


@dataclass(frozen=True)
class Kind:
    """The control sets of one kind.

    Attributes:
        group: Counted.
        highest: Their highest perplexity, in words.
    """

    group: ControlGroup
    highest: str


def kinds(result: Result) -> list[Kind]:
    """The controls by kind."""
    rows = []
    for group in by_kind(result.controls).values():
        values = [c.metrics.get(METRIC) for c in group.sets]
        finite = [v for v in values if v is not None]
        highest = max(finite) if finite and len(finite) == len(values) else None
        rows.append(Kind(group, METRICS[METRIC].show(highest) if values else show(None)))
    return rows


def strip(result: Result) -> Strip:
    """Lays it out."""
    intact = _decades(result.baseline.get("nll_reference"))
    base = intact if math.isfinite(intact) else 0.0
    rise = _rise(result)
    sets = _sets(result)
    finite = [v for values in sets.values() for v, _ in values if math.isfinite(v)]
    low = math.floor(min([base, *finite]))
    high = max(math.ceil(max([base + (rise or 0.0), *finite])), low + 1)

    def x(value: float) -> float:
        if not math.isfinite(value):
            return RIGHT - 6.0
        return round(LEFT + (RIGHT - 24 - LEFT) * (value - low) / (high - low), 1)

    rows = []
    for i, (name, values) in enumerate(sets.items()):
        y = TOP + ROW * i + ROW / 2
        marks = [
            Mark(x(v), y + (SPREAD[j % len(SPREAD)] if len(values) > 1 else 0),
                 f"perplexity {show_decades(v)}, {_WORDS[style]}", style, not math.isfinite(v))
            for j, (v, style) in enumerate(values)
        ]  # fmt: skip
        rows.append(Row(name, y, marks))
    step = max(1, math.ceil((high - low) / 6))
    return Strip(
        LEFT, TOP + ROW * len(rows) + 42, f"{METRICS[METRIC].label} (log scale)", rows,
        [(x(t), power(t)) for t in range(low, high + 1, step)], x(base),
        None if rise is None else (x(base + rise), f"{10**rise:,.3g} × intact"),
        [style for style in _WORDS if any(mark.style == style for row in rows for mark in row.marks)],
    )  # fmt: skip


_WORDS: dict[Style, str] = {"standing": "still standing", "fallen": "collapsed", "undecided": "undecided"}


def _sets(result: Result) -> dict[str, list[tuple[float, Style]]]:
    """Name of a row -> log10 perplexity and decision of each set."""
    sets: dict[str, list[tuple[float, Style]]] = {}
    if result.k_star is not None:
        point = next(p for p in result.curve if p.k == result.k_star)
        sets[f"The critical {result.k_star:,}"] = [(_decades(point.metrics.get("nll_reference")), "fallen")]
    for kind in by_kind(result.controls).values():
        sets[kind.label] = [
            (_decades(c.metrics.get("nll_reference")),
             "undecided" if c.collapsed is None else "fallen" if c.collapsed else "standing")
            for c in kind.sets
        ]  # fmt: skip
    return sets


def _rise(result: Result) -> float | None:
    """By how many powers of ten the criterion wants the perplexity to rise; None where it does not ask for that."""
    for condition in result.criterion.get("conditions", ()):
        if condition.get("test") == "decades" and condition.get("metric") == METRIC:
            return float(condition["limit"])
    return None


def _decades(nll: float | None) -> float:
    return math.inf if nll is None else nll / LN10
