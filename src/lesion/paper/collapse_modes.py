"""Collapse modes: what the model says intact, at stage 1 and at k*, and the share of each mode against k."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.modes import COLOURS, MEANINGS
from lesion.core.outcome import MODES, Mode, SampleOutcome
from lesion.core.tables import Rows
from lesion.data.samples import Sample
from lesion.paper.cell import Cell
from lesion.paper.part import Part
from lesion.paper.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True)
class CollapseModes(Part):
    """The counterpart of the paper's figure 1.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        cell: The curve.
        shown: The k whose answers are shown: intact, stage 1 (or the last k before the end), k* (or the largest k).
        samples: The images that are shown.
    """

    name = "modes"
    title = "Collapse modes"
    model: str
    cell: Cell
    shown: tuple[int, ...]
    samples: tuple[Sample, ...]

    def words(self) -> list[str]:
        point = self.cell.curve.at(self.shown[-1])
        modes: list[Mode] = [mode for mode in MODES if point.modes[mode]]
        modes.sort(key=lambda mode: point.modes[mode], reverse=True)
        shares = ", ".join(f"{100 * point.modes[mode]:.0f} % {mode} ({MEANINGS[mode]})" for mode in modes)
        at = f"k* = {point.k:,}" if point.k == self.cell.k_star else f"k = {point.k:,}, the largest that was tried,"
        return [f"What the answers are at {at} masked neurons of language {self.cell.key.role}: {shares}."]

    def table(self) -> Rows:
        """Share of the answers in each mode, at every k."""
        return [{"k": p.k, **p.modes, "curve": self.cell.name, "evaluation": p.key} for p in self.cell.curve]

    def more_tables(self) -> dict[str, Rows]:
        """The answers to the shown images."""
        return {"answers": [
            {"image": sample.id, "k": k, "mode": outcome.mode, "clip_score": outcome.clip, "answer": outcome.answer,
             "evaluation": self.cell.curve.at(k).key}
            for sample in self.samples
            for k in self.shown
            for outcome in (self._outcome(sample, k),)
        ]}  # fmt: skip

    def plot(self) -> Figure:
        """The pictures with their answers, and the share of each mode."""
        from lesion.report.figures import new_figure

        rows = len(self.samples)
        figure, _ = new_figure(width=9.0, height=1.25 * rows + 3.6)
        figure.clear()
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.25 * rows, 3.2])[:, 0]
        axes = above.subplots(rows, 1 + len(self.shown), squeeze=False, width_ratios=[0.5, *[1.0] * len(self.shown)])
        for line, sample in zip(axes, self.samples, strict=True):
            if sample.image is None:
                line[0].text(0, 1, textwrap.fill(textwrap.shorten(sample.prompt or "", 90), 17), va="top", fontsize=6.5)
            else:
                line[0].imshow(sample.image)
            for panel in line:
                panel.set_axis_off()
            for panel, k in zip(line[1:], self.shown, strict=True):
                outcome = self._outcome(sample, k)
                # A dollar sign would be read as mathematics.
                text = textwrap.fill(textwrap.shorten(outcome.answer, 150) or "(empty)", 34)
                panel.text(0, 1, f"{outcome.mode}\n\n{text}", va="top", fontsize=6.5, transform=panel.transAxes)
        for panel, k in zip(axes[0, 1:], self.shown, strict=True):
            panel.set_title(self._heading(k), fontsize=8, loc="left", fontweight="bold")
        self._draw_shares(below)
        figure.suptitle(f"{self.model}: what becomes of the answers ({self.cell.label})", fontsize=9)
        return figure

    def _draw_shares(self, figure: SubFigure) -> None:
        axes, curve = figure.subplots(), self.cell.curve
        bars, base = np.arange(len(curve)), np.zeros(len(curve))
        for mode in MODES:
            values = np.array([p.modes[mode] for p in curve])
            axes.bar(bars, values, bottom=base, color=COLOURS[mode], width=0.9, label=f"{mode}: {MEANINGS[mode]}",
                     edgecolor="white", linewidth=0.5)  # fmt: skip
            base += values
        axes.set_xticks(bars, [f"{k:,}" for k in curve.ks], fontsize=7, rotation=45 if len(bars) > 14 else 0)
        axes.set_xlim(-0.6, len(bars) - 0.4)
        axes.set_xlabel("number of masked neurons, k (every k that was evaluated)")
        axes.set_ylabel("share of the answers")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=6.5, frameon=False)

    def _heading(self, k: int) -> str:
        if k == 0:
            return "intact"
        if k == self.cell.k_star:
            return f"k* = {k:,}"
        return f"stage 1, k = {k:,}" if k == self.cell.collapse.stage1_k else f"k = {k:,}"

    def _outcome(self, sample: Sample, k: int) -> SampleOutcome:
        return next(o for o in self.cell.curve.at(k).outcomes if o.id == sample.id)


def collapse_modes(subject: Subject) -> CollapseModes:
    """Answers along the curve of the plan's role.

    Args:
        subject: The model; the curve is shared with other parts.
    """
    cell = subject.cell("language", subject.plan.role)
    end = cell.k_star if cell.k_star is not None else cell.collapse.largest_k
    before = [k for k in cell.curve.ks if k < end]
    middle = cell.collapse.stage1_k if cell.collapse.stage1_k in before else before[-1]
    shown = tuple(dict.fromkeys((0, middle or 0, end)))
    return CollapseModes(subject.name, cell, shown, tuple(subject.measured[: subject.plan.examples]))
