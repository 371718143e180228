"""The two stages: perplexities and CLIP score against k, for each role of the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.tables import Rows
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


METRICS = ("ppl_reference", "ppl_generated", "ppl_generated_intact", "clip_score")


@dataclass(frozen=True)
class TwoStages(Part):
    """The counterparts of the paper's figures 4 (gate) and 5 (down): expression degrades, then the model collapses."""

    name = "stages"
    title = "The two stages"
    model: str
    cells: dict[str, Cell]

    def words(self) -> list[str]:
        lines = []
        for role, cell in self.cells.items():
            found = cell.collapse
            if found.k_star is None:
                lines.append(f"{role}: no collapse up to k = {found.largest_k:,}.")
                continue
            before = next(p for p in reversed(cell.curve.points) if p.k < found.k_star)
            sudden = f"at k = {before.k:,} the CLIP score is {_of(before, 'clip_score')}, at k* = {found.k_star:,} " \
                f"{_of(cell.curve.at(found.k_star), 'clip_score')}"  # fmt: skip
            if found.stage1_k is not None and found.stage1_k < found.k_star:
                lines.append(f"{role}: stage 1 begins at k = {found.stage1_k:,}; {sudden}.")
            else:
                lines.append(f"{role}: no stage 1 was seen before the collapse; {sudden}.")
        return lines

    def table(self) -> Rows:
        """Every point of every curve, with its stage (0, 1 or 2) and its 95 % intervals over images."""
        rows: list[dict[str, Any]] = []
        for role, cell in self.cells.items():
            bands, keys = cell.curve.bands(), cell.keys
            chance = None if cell.curve.chance is None else float(cell.curve.chance.mean())
            for i, point in enumerate(cell.curve):
                low, high = bands.nll[i]
                clip = (None, None) if bands.clip is None else tuple(float(v) for v in bands.clip[i])
                metrics = point.metrics
                rows.append({
                    "role": role, "k": point.k, "stage": self._stage(cell, point.k),
                    "nll_reference": metrics["nll_reference"], "nll_low": _finite(low), "nll_high": _finite(high),
                    **{name: metrics[name] for name in METRICS},
                    "clip_low": clip[0], "clip_high": clip[1], "clip_chance": chance, "curve": cell.name,
                    "evaluation": keys[point.k],
                })  # fmt: skip
        return rows

    def plot(self) -> Figure:
        from lesion.report.figures import draw_curve, new_figure

        columns = 2 if len(self.cells) > 1 else 1
        count = -(-len(self.cells) // columns)
        figure, axes = new_figure(count, columns, width=5.2 * columns, height=3.0 * count + 0.8)
        handles: dict[str, Any] = {}
        for place, (role, cell) in zip(axes.flat, self.cells.items(), strict=False):
            drawn, labels = draw_curve(place, cell.curve, cell.collapse)
            handles |= dict(zip(labels, drawn, strict=True))
            place.set_title(role, fontsize=9)
        for place in axes.flat[len(self.cells) :]:
            place.set_visible(False)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        figure.suptitle(f"{self.model}: masking the top k neurons of the language model", fontsize=9)
        return figure

    @staticmethod
    def _stage(cell: Cell, k: int) -> int:
        found = cell.collapse
        if found.k_star is not None and k >= found.k_star:
            return 2
        return 1 if found.stage1_k is not None and k >= found.stage1_k else 0


def two_stages(subject: Subject) -> TwoStages:
    """The language model's curves, one a role.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    return TwoStages(subject.name, {role: subject.place("language", role) for role in subject.roles("language")})


def _of(point: Any, metric: str) -> str:
    value = point.metrics[metric]
    return "not measured" if value is None else f"{value:.1f}"


def _finite(value: float) -> float | None:
    return float(value) if value < float("inf") else None
