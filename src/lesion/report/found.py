"""The measured search as the report draws it: the best so far against what was spent, and the sets that were asked about."""

from __future__ import annotations

from dataclasses import dataclass

from lesion.core.metrics import METRICS
from lesion.core.tables import Rows
from lesion.report.charts import LEFT, LN10, RIGHT, power
from lesion.study.control_entry import by_kind
from lesion.study.searched import Searched

TOP, BOTTOM, HEIGHT = 22, 190, 232
ROOM = 24
"""Names stand so far apart, but for the last."""
MOST = 6.0
"""Decades of perplexity that the drawing shows; what is beyond stands at its upper edge."""
SHOWN = METRICS["ppl_reference"], METRICS["clip_score"]


@dataclass(frozen=True)
class Mark:
    """A set that was better than all before."""

    x: float
    y: float
    says: str
    style: str
    beyond: bool
    name: str


@dataclass(frozen=True)
class Trail:
    """The drawing.

    Attributes:
        height: Of it.
        path: The best so far, a step a mark.
        marks: Where it changed.
        ticks: Of what was spent.
        levels: Of the perplexity: place and name.
    """

    height: float
    path: str
    marks: list[Mark]
    ticks: list[tuple[float, str]]
    levels: list[tuple[float, str]]


def trail(searched: Searched) -> Trail:
    """Lays it out. A set's size is named where it changes."""

    def x(spent: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * spent / max(searched.spent, 1), 1)

    def y(rise: float | None) -> float:
        decades = MOST if rise is None else min(max(rise / LN10, 0.0), MOST)
        return round(BOTTOM - (BOTTOM - TOP) * decades / MOST, 1)

    marks, size, named = list[Mark](), 0, -ROOM
    for step in searched.steps:
        shown = "not finite" if step.rise is None else f"{step.rise:.3g} nats"
        state = "collapsed" if step.collapsed else "standing"
        last = step is searched.steps[-1]
        name = f"{step.size:,}" if last or (step.size != size and x(step.spent) - named >= ROOM) else ""
        size, named = step.size, x(step.spent) if name else named
        marks.append(Mark(
            x(step.spent), y(step.rise), f"{step.size:,} neurons, rise {shown}, {state}, after {step.spent:,} sets",
            "fallen" if step.collapsed else "standing", step.rise is None or step.rise / LN10 > MOST, name,
        ))  # fmt: skip
    path = "".join(f"{'M' if i == 0 else 'H'}{m.x}{f',{m.y}' if i == 0 else f'V{m.y}'}" for i, m in enumerate(marks))
    ticks = [(x(searched.spent * share), f"{round(searched.spent * share):,}") for share in (0, 0.25, 0.5, 0.75, 1)]
    levels = [(y(LN10 * n), f"×{power(n)}") for n in range(0, int(MOST) + 1, 2)]
    return Trail(HEIGHT, f"{path}H{RIGHT}" if marks else "", marks, ticks, levels)


@dataclass(frozen=True)
class FoundView:
    """What the report says of a measured search."""

    searched: Searched

    @property
    def trail(self) -> Trail:
        return trail(self.searched)

    @property
    def rows(self) -> Rows:
        """The sets that were asked about on the samples that are measured on."""
        words = {True: "collapsed", False: "standing", None: "undecided"}
        return [
            {"neurons": len(c.neurons), "model": words[c.collapsed], **{m.label: m.show(c.metrics.get(m.name)) for m in SHOWN}}
            for c in self.searched.candidates
        ]

    @property
    def numeric(self) -> list[str]:
        """Columns of that table whose cells are numbers."""
        return ["neurons", *(metric.label for metric in SHOWN)]

    @property
    def parts(self) -> str:
        """How the parts of the set came out; empty where none was measured."""
        subsets = self.searched.subsets
        if not subsets:
            return ""
        fallen, unsure = sum(p.collapsed is True for p in subsets), sum(p.collapsed is None for p in subsets)
        standing = len(subsets) - fallen - unsure
        more = f", {fallen} collapse it" if fallen else ""
        more += f", of {unsure} the samples do not tell" if unsure else ""
        every = "All" if standing == len(subsets) else f"{standing} of the"
        return f"{every} {len(subsets)} parts that were measured leave the model standing{more}."

    @property
    def controls(self) -> list[str]:
        """The controls of the set, a line a kind."""
        groups = by_kind(self.searched.controls).values()
        return [f"{g.label}: {g.standing} of {g.drawn} leave the model standing." for g in groups if g.drawn]
