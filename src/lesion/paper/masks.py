"""What masking means: the same neurons set to zero, to their mean, and to their mean by class of token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.ablation.evaluator import usable_masks
from lesion.core.criterion import Decision
from lesion.core.evaluation import Evaluation
from lesion.core.tables import Rows
from lesion.hooks.intervention import get_intervention
from lesion.paper.cell import EFFECT, Cell
from lesion.paper.part import Part, of_metrics
from lesion.paper.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MASKS = ("zero", "mean", "class-mean")
"""Names of the interventions that are compared."""


@dataclass(frozen=True)
class MaskEffect:
    """What one intervention on the critical set of a role does; the set is that of zero."""

    role: str
    mask: str
    neurons: int
    decision: Decision
    point: Evaluation


@dataclass(frozen=True)
class Masks(Part):
    """Zero destroys where the mean does not, if what counts is that a constant is there (arXiv 2402.17762).

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        effects: Every intervention on the critical set of every role.
        cells: Name of the intervention -> curve of the plan's role.
    """

    name = "masks"
    title = "What masking means"
    model: str
    effects: tuple[MaskEffect, ...]
    cells: dict[str, Cell]

    def words(self) -> list[str]:
        lines = []
        for role in dict.fromkeys(e.role for e in self.effects):
            inside = [e for e in self.effects if e.role == role]
            does = "; ".join(f"{e.mask} {EFFECT[e.decision]}" for e in inside)
            lines.append(f"{role}, the critical {inside[0].neurons:,} neurons: {does}.")
        stars = ", ".join(f"{mask} {cell.star()}" for mask, cell in self.cells.items())
        lines.append(f"k* with each mask, on its own curve: {stars}.")
        missing = [mask for mask in MASKS if mask not in self.cells]
        if missing:
            lines.append(f"Not for this model: {', '.join(missing)}; see docs/limitations.md.")
        return lines

    def table(self) -> Rows:
        shown = ("ppl_reference", "nll_reference", "clip_score", "exact_match", "kl")
        rows: list[dict[str, Any]] = [
            {"role": e.role, "mask": e.mask, "neurons": e.neurons, "decision": e.decision,
             **of_metrics(e.point.metrics, *shown), "evaluation": e.point.key}
            for e in self.effects
        ]  # fmt: skip
        return rows

    def more_tables(self) -> dict[str, Rows]:
        """k* with each mask."""
        return {"curves": [{"mask": mask, **cell.row(), "curve": cell.name} for mask, cell in self.cells.items()]}

    def plot(self) -> Figure:
        """The perplexity of the intact answers against k, with each mask."""
        from lesion.report.figures import BLUE, GREEN, ORANGE, new_figure, number
        from lesion.report.plots import k_axis

        figure, axes = new_figure()
        panel = axes[0, 0]
        longest = max(self.cells.values(), key=lambda cell: cell.curve.ks[-1])
        k_axis(panel, longest.curve, longest.collapse)
        for (mask, cell), colour, marker in zip(self.cells.items(), (ORANGE, BLUE, GREEN), "os^", strict=False):
            decades = np.array([number(p.metrics["nll_reference"]) for p in cell.curve]) / np.log(10)
            panel.plot(cell.curve.ks, decades, f"{marker}-", color=colour, markersize=4, label=mask)
        panel.set_ylabel("log10 perplexity of the intact answers")
        panel.legend(frameon=False, fontsize=8)
        figure.suptitle(f"{self.model}: what a masked neuron is set to", fontsize=9)
        return figure


def masks(subject: Subject) -> Masks:
    """Applies every intervention to the critical sets of zero, and sweeps the plan's role with each.

    Args:
        subject: The model; the critical sets are shared with other parts.
    """
    effects, role = [], subject.plan.role
    vlm = subject.session.vlm
    usable = [mask for mask in usable_masks(vlm, vlm.sites.select("language")) if mask in MASKS]
    interventions = {mask: get_intervention(mask) for mask in usable}
    for other in subject.language_roles():
        critical = subject.cell("language", other).critical
        if len(critical):
            for mask, act in interventions.items():
                ablation = subject.ablation(intervention=act)
                point = ablation(critical)
                effects.append(MaskEffect(other, mask, len(critical), ablation.decide(point), point))
    labels = {mask: f"language {role}" if mask == "zero" else f"language {role}, {mask} mask" for mask in usable}
    cells = {mask: subject.cell("language", role, labels[mask], intervention=act) for mask, act in interventions.items()}
    return Masks(subject.name, tuple(effects), cells)
