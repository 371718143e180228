"""A :class:`Cell`: one curve of the experiments. What it *is* is its :class:`CellKey`; what it is *called* is a label."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lesion.core.collapse import Collapse
from lesion.core.criterion import Decision
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.tables import Rows
from lesion.scoring.options import ScoreOptions
from lesion.scoring.scorers import get_scorer

EFFECT: dict[Decision, str] = {
    "collapsed": "collapses the model",
    "standing": "leaves the model standing",
    "undecided": "is undecided: the samples do not tell whether it collapses the model",
}
"""What masking something does, as the end of a sentence."""


@dataclass(frozen=True)
class CellKey:
    """Everything that decides a curve, for one model in one run: cells with the same key are the same cell.

    Attributes:
        component: Whose neurons are ranked, or ``all``.
        role: Of which kind they are, or ``all``.
        scorer: What ranks them.
        options: Of the scorer.
        ranked_on: Digest of the samples that they are ranked on.
        measured_on: Digest of the samples that masks are measured on.
        intervention: Id of what becomes of masked neurons.
    """

    component: str
    role: str
    scorer: str
    options: ScoreOptions
    ranked_on: str
    measured_on: str
    intervention: str

    def row(self) -> dict[str, Any]:
        """As columns of a table."""
        used = ", ".join(f"{name}={getattr(self.options, name)}" for name in get_scorer(self.scorer).uses)
        return {**asdict(self), "options": used}


@dataclass(frozen=True)
class Cell:
    """A ranking, what masking its top k does, and what that says. It outlives the model.

    Attributes:
        key: What it is.
        label: For people; others may have the same.
        name: The label, with a number where another cell of the model has that label; in ``tables/curves.csv``.
        ranking: The neurons, the most important first.
        curve: Up to the collapse.
        collapse: What it says.
    """

    key: CellKey
    label: str
    name: str
    ranking: Ranking
    curve: Curve
    collapse: Collapse

    @property
    def k_star(self) -> int | None:
        return self.collapse.k_star

    @property
    def critical(self) -> NeuronSet:
        """The top k*; empty without one."""
        return self.ranking.top(self.k_star or 0)

    def decision(self, point: Evaluation) -> Decision:
        """What the criterion says of a point of the curve."""
        if point.k in self.collapse.collapsed:
            return "collapsed"
        return "undecided" if point.k in self.collapse.undecided else "standing"

    @property
    def outcome(self) -> str:
        """What the curve says, in a word or two."""
        collapse, before = self.collapse, self._undecided_before()
        if collapse.k_star is not None:
            return f"collapse; undecided at {before}" if before else "collapse"
        if collapse.undecided:
            return "undecided"
        return "no lasting collapse" if collapse.collapsed else "no collapse"

    def star(self) -> str:
        """k* in a few words, for lists."""
        collapse, before = self.collapse, self._undecided_before()
        if collapse.k_star is not None:
            return f"{collapse.k_star:,}" + (f" (undecided at {before})" if before else "")
        if collapse.undecided:
            return f"undecided at {_range(collapse.undecided)}"
        lasts = " that lasts" if collapse.collapsed else ""
        return f"none{lasts} up to {'all ' if collapse.largest_k == len(self.ranking) else ''}{collapse.largest_k:,}"

    def clause(self) -> str:
        """The same as a clause: whether there is a k*, and which."""
        if self.k_star is not None:
            return f"k* is {self.star()}"
        return f"k* is {self.star()}" if self.collapse.undecided else f"no k*{self.star().removeprefix('none')}"

    def _undecided_before(self) -> str:
        """Where below k* the samples do not decide; empty where they do everywhere."""
        return _range([k for k in self.collapse.undecided if k < (self.collapse.k_star or 0)])

    def interval(self) -> str | None:
        """The interval of k* for a column of a table; None without k*."""
        low, high = self.collapse.k_star_ci
        if self.k_star is None:
            return None
        return self.collapse.interval() if low is None or high is None else f"{low:,} to {high:,}"

    def row(self) -> dict[str, Any]:
        """What every table says of a curve."""
        collapse, (low, high) = self.collapse, self.collapse.k_star_ci
        return {
            "neurons": len(self.ranking), "outcome": self.outcome, "stage1_k": collapse.stage1_k, "k_star": collapse.k_star,
            "share": None if collapse.k_star is None else collapse.k_star / len(self.ranking),
            "interval": self.interval(), "k_star_low": low, "k_star_high": high, "largest_k": collapse.largest_k,
            "monotone": collapse.monotone, "undecided_k": " ".join(map(str, collapse.undecided)) or None,
        }  # fmt: skip

    def points(self) -> Rows:
        """The curve as rows, each with its line in ``evaluations.jsonl``."""
        return [
            {"curve": self.name, "k": p.k, "decision": self.decision(p), **p.metrics, "evaluation": p.key} for p in self.curve
        ]


def _range(ks: Sequence[int]) -> str:
    if len(ks) < 3:
        return " and ".join(f"{k:,}" for k in ks)
    return f"{len(ks)} tried k from {ks[0]:,} to {ks[-1]:,}"


def unused_name(label: str, names: Container[str]) -> str:
    """The label, or with the first number after it that makes a name of its own."""
    name, number = label, 1
    while name in names:
        number += 1
        name = f"{label} ({number})"
    return name
