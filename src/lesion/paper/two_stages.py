"""The two stages: perplexities and CLIP score against k, for each role of the language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.evaluation import Evaluation
from lesion.core.metrics import METRICS
from lesion.core.tables import Rows
from lesion.paper.cell import Cell
from lesion.paper.part import Part, of_metrics
from lesion.paper.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("ppl_reference", "ppl_generated", "ppl_generated_intact", "clip_score")
"""Metrics of the table."""
IN_WORDS = ("ppl_reference", "clip_score")
"""Metrics of the sentences: those that the default criterion reads."""


@dataclass(frozen=True)
class TwoStages(Part):
    """The counterparts of the paper's figures 4 (gate) and 5 (down): expression degrades, then the model collapses.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        cells: Role -> curve.
    """

    name = "stages"
    title = "The two stages"
    model: str
    cells: dict[str, Cell]

    def words(self) -> list[str]:
        lines = []
        for role, cell in self.cells.items():
            collapse, stage1 = cell.collapse, cell.collapse.stage1()
            if collapse.k_star is None:
                lines.append(f"{role}: {cell.clause()}; stage 1 {stage1}.")
                continue
            before = next(p for p in reversed(cell.curve.points) if p.k < collapse.k_star)
            after = cell.curve.at(collapse.k_star)
            if collapse.stage1_k == collapse.k_star:
                stage1 = "not seen before the collapse"
            changes = "; ".join(_change(name, before, after) for name in IN_WORDS)
            lines.append(f"{role}: stage 1 {stage1}; {cell.clause()}. From k = {before.k:,} to k* {changes}.")
        return lines

    def table(self) -> Rows:
        """Every point of every curve, with its stage (0, 1 or 2; none where that was not tested) and 95 % intervals."""
        rows: list[dict[str, Any]] = []
        for role, cell in self.cells.items():
            bands = cell.curve.bands()
            sure = cell.collapse.enough_samples
            chance = None if cell.curve.chance is None else float(cell.curve.chance.mean())
            for i, point in enumerate(cell.curve):
                nll = bands.nll[i] if sure else (None, None)
                clip = bands.clip[i] if sure and bands.clip is not None else (None, None)
                rows.append({
                    "role": role, "k": point.k, "stage": self._stage(cell, point), "decision": cell.decision(point),
                    **of_metrics(point.metrics, "nll_reference"), "nll_reference_low": _finite(nll[0]),
                    "nll_reference_high": _finite(nll[1]), **of_metrics(point.metrics, *SHOWN),
                    "clip_score_low": _finite(clip[0]), "clip_score_high": _finite(clip[1]), "clip_score_chance": chance,
                    "curve": cell.name, "evaluation": point.key,
                })  # fmt: skip
        return rows

    def plot(self) -> Figure:
        from lesion.report.figures import new_figure
        from lesion.report.plots import draw_curve

        columns = 2 if len(self.cells) > 1 else 1
        count = -(-len(self.cells) // columns)
        figure, axes = new_figure(count, columns, width=5.2 * columns, height=3.0 * count + 0.8)
        handles: dict[str, Any] = {}
        for panel, (role, cell) in zip(axes.flat, self.cells.items(), strict=False):
            drawn, labels = draw_curve(panel, cell.curve, cell.collapse)
            handles |= dict(zip(labels, drawn, strict=True))
            panel.set_title(role, fontsize=9)
        for panel in axes.flat[len(self.cells) :]:
            panel.set_visible(False)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        figure.suptitle(f"{self.model}: masking the top k neurons of the language model", fontsize=9)
        return figure

    @staticmethod
    def _stage(cell: Cell, point: Evaluation) -> int | None:
        collapse = cell.collapse
        if collapse.k_star is not None and point.k >= collapse.k_star:
            return 2
        if not collapse.enough_samples:
            return None
        return 1 if collapse.stage1_k is not None and point.k >= collapse.stage1_k else 0


def two_stages(subject: Subject) -> TwoStages:
    """The language model's curves, one a role.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    return TwoStages(subject.name, {role: subject.cell("language", role) for role in subject.language_roles()})


def _change(name: str, before: Evaluation, after: Evaluation) -> str:
    metric, (one, two) = METRICS[name], (point.metrics[name] for point in (before, after))
    if one is None and two is None:
        return f"the {metric.label} is {metric.missing} at either"
    return f"the {metric.label} goes from {metric.show(one)} to {metric.show(two)}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
