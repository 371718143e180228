"""What masking means: the same neurons set to zero, to their mean, and to their mean by class of token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.ablation.evaluator import usable_masks
from lesion.core.curve import Evaluation
from lesion.core.tables import Rows
from lesion.hooks.intervene import VALUES
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Replaced:
    """The critical set of a role (found with zero), set to something."""

    role: str
    value: str
    neurons: int
    collapsed: bool
    point: Evaluation
    evaluation: str


@dataclass(frozen=True)
class Masks(Part):
    """Zero destroys where the mean does not, if what counts is that a constant is there (arXiv 2402.17762).

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        replaced: The critical set of every role, with every value.
        cells: Value -> curve of the plan's role.
    """

    name = "masks"
    title = "What masking means"
    model: str
    replaced: tuple[Replaced, ...]
    cells: dict[str, Cell]

    def words(self) -> list[str]:
        lines = []
        for role in dict.fromkeys(r.role for r in self.replaced):
            inside = [r for r in self.replaced if r.role == role]
            does = "; ".join(f"{r.value} {'collapses' if r.collapsed else 'does not collapse'} the model" for r in inside)
            lines.append(f"{role}, the critical {inside[0].neurons:,} neurons: {does}.")
        stars = [
            f"{value} {cell.collapse.k_star:,}" if cell.collapse.k_star is not None
            else f"{value} none up to {cell.collapse.largest_k:,}"
            for value, cell in self.cells.items()
        ]  # fmt: skip
        lines.append(f"k* with each value, on its own curve: {', '.join(stars)}.")
        left_out = [value for value in VALUES if value not in self.cells]
        if left_out:
            lines.append(f"Not for this model: {', '.join(left_out)}; see docs/limitations.md.")
        return lines

    def table(self) -> Rows:
        rows: list[dict[str, Any]] = []
        for r in self.replaced:
            shown = {n: r.point.metrics[n] for n in ("ppl_reference", "nll_reference", "clip_score", "exact_match", "kl")}
            rows.append({"role": r.role, "value": r.value, "neurons": r.neurons, "collapsed": r.collapsed, **shown,
                         "evaluation": r.evaluation})  # fmt: skip
        return rows

    def more_tables(self) -> dict[str, Rows]:
        """k* with each value."""
        return {"curves": [{"value": value, **cell.row(), "curve": cell.name} for value, cell in self.cells.items()]}

    def plot(self) -> Figure:
        """The perplexity of the intact answers against k, with each value."""
        from lesion.report.figures import BLUE, GREEN, ORANGE, k_axis, new_figure, number

        figure, axes = new_figure()
        place = axes[0, 0]
        longest = max(self.cells.values(), key=lambda cell: cell.curve.ks[-1])
        k_axis(place, longest.curve, longest.collapse)
        for (value, cell), colour, marker in zip(self.cells.items(), (ORANGE, BLUE, GREEN), "os^", strict=False):
            decades = np.array([number(p.metrics["nll_reference"]) for p in cell.curve]) / np.log(10)
            place.plot(cell.curve.ks, decades, f"{marker}-", color=colour, markersize=4, label=value)
        place.set_ylabel("log10 perplexity of the intact answers")
        place.legend(frameon=False, fontsize=8)
        figure.suptitle(f"{self.model}: what a masked neuron is set to", fontsize=9)
        return figure


def masks(subject: Subject) -> Masks:
    """Masks the critical sets with every value, and sweeps the plan's role with every value.

    Args:
        subject: The model; the critical sets are those of zero.
    """
    replaced, role = [], subject.plan.role
    vlm = subject.bench.vlm
    usable = usable_masks(vlm, vlm.sites.select("language"))
    by_value = {value: subject.measuring(mask=value) for value in usable}
    for other in subject.roles("language"):
        critical = subject.place("language", other).critical
        if len(critical):
            for value, measure in by_value.items():
                point = measure(critical)
                fallen = measure.judge.collapsed(point)
                replaced.append(Replaced(other, value, len(critical), fallen, point, measure.key(critical)))
    cells = {
        value: subject.place("language", role)
        if value == "zero"
        else subject.cell(f"language {role}, {value} mask", subject.ranking("language", role), measure)
        for value, measure in by_value.items()
    }
    return Masks(subject.name, tuple(replaced), cells)
