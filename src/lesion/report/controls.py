"""The controls beside the critical set, as the report draws them: one dot a set, by the perplexity that it causes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lesion.core.criterion import COLLAPSE_DECADES
from lesion.report.charts import LN10, RIGHT, power
from lesion.study.result import CONTROLS, Result

LEFT, ROW, TOP = 232, 30, 24
SPREAD = (0, -6, 6, -3, 3)
"""Dots that would lie on each other are moved up and down by so much."""


@dataclass(frozen=True)
class Mark:
    """One set."""

    x: float
    y: float
    says: str
    collapsed: bool
    beyond: bool


@dataclass(frozen=True)
class Row:
    """The sets of one kind."""

    name: str
    y: float
    marks: list[Mark]


@dataclass(frozen=True)
class Strip:
    """The drawing; ``intact`` and ``limit`` are the x of the intact model and of ten times its perplexity."""

    left: float
    height: float
    rows: list[Row]
    ticks: list[tuple[float, str]]
    intact: float
    limit: float


def strip(result: Result) -> Strip:
    """Lays it out."""
    intact = _decades(result.baseline.get("nll_reference"))
    base = intact if math.isfinite(intact) else 0.0
    sets: dict[str, list[tuple[float, bool]]] = {}
    if result.k_star is not None:
        point = next(p for p in result.curve if p.k == result.k_star)
        sets[f"The critical {result.k_star:,}"] = [(_decades(point.metrics.get("nll_reference")), True)]
    for control in result.controls:
        found = sets.setdefault(CONTROLS.get(control.kind, control.kind), [])
        if control.collapsed is not None:
            found.append((_decades(control.metrics.get("nll_reference")), control.collapsed))
    finite = [v for values in sets.values() for v, _ in values if math.isfinite(v)]
    low = math.floor(min([base, *finite]))
    high = max(math.ceil(max([base + COLLAPSE_DECADES, *finite])), low + 1)

    def x(value: float) -> float:
        if not math.isfinite(value):
            return RIGHT - 6.0
        return round(LEFT + (RIGHT - 24 - LEFT) * (value - low) / (high - low), 1)

    rows = []
    for i, (name, values) in enumerate(sets.items()):
        y = TOP + ROW * i + ROW / 2
        marks = [
            Mark(x(v), y + (SPREAD[j % len(SPREAD)] if len(values) > 1 else 0),
                 f"perplexity {10**v:,.4g}" if v < 300 else "perplexity not finite", collapsed, not math.isfinite(v))
            for j, (v, collapsed) in enumerate(values)
        ]  # fmt: skip
        rows.append(Row(name, y, marks))
    step = max(1, math.ceil((high - low) / 6))
    ticks = [(x(t), power(t)) for t in range(low, high + 1, step)]
    return Strip(LEFT, TOP + ROW * len(rows) + 42, rows, ticks, x(base), x(base + COLLAPSE_DECADES))


def _decades(nll: float | None) -> float:
    return math.inf if nll is None else nll / LN10
