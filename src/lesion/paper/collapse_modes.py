"""Collapse modes: what the model says intact, at stage 1 and at k*, and the share of each mode against k."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.curve import Evaluation
from lesion.core.metrics import MODES
from lesion.core.tables import Rows
from lesion.data.samples import Sample
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CollapseModes(Part):
    """The counterpart of the paper's figure 1.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        cell: The curve.
        shown: The k whose answers are shown: intact, stage 1 (or the last k that stands), k* (or the largest k).
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
        most = max(point.modes, key=lambda mode: point.modes[mode])
        return [f"At k = {point.k:,}, {point.modes[most]:.0%} of the answers are: {most}."]

    def table(self) -> Rows:
        """Share of the answers in each mode, at every k."""
        keys = self.cell.keys
        return [{"k": p.k, **p.modes, "curve": self.cell.name, "evaluation": keys[p.k]} for p in self.cell.curve]

    def more_tables(self) -> dict[str, Rows]:
        """The answers to the shown images."""
        keys = self.cell.keys
        return {"answers": [
            {"image": sample.id, "k": k, "mode": judged.mode, "clip_score": judged.clip, "answer": judged.answer,
             "evaluation": keys[k]}
            for sample in self.samples
            for k in self.shown
            for judged in self._point(k).outcomes
            if judged.id == sample.id
        ]}  # fmt: skip

    def plot(self) -> Figure:
        """The pictures with their answers, and the share of each mode."""
        from lesion.report.figures import new_figure

        rows = len(self.samples)
        figure, _ = new_figure(width=9.0, height=1.25 * rows + 3.0)
        figure.clear()
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.25 * rows, 2.6])[:, 0]
        axes = above.subplots(rows, 1 + len(self.shown), squeeze=False, width_ratios=[0.5, *[1.0] * len(self.shown)])
        for line, sample in zip(axes, self.samples, strict=True):
            if sample.image is None:
                line[0].text(0, 1, textwrap.fill(textwrap.shorten(sample.prompt or "", 90), 17), va="top", fontsize=6.5)
            else:
                line[0].imshow(sample.image)
            for place in line:
                place.set_axis_off()
            for place, k in zip(line[1:], self.shown, strict=True):
                judged = next(j for j in self._point(k).outcomes if j.id == sample.id)
                # A dollar sign would be read as mathematics.
                text = textwrap.fill(textwrap.shorten(judged.answer, 150) or "(empty)", 34).replace("$", r"\$")
                place.text(0, 1, f"{judged.mode}\n\n{text}", va="top", fontsize=6.5, transform=place.transAxes)
        for place, k in zip(axes[0, 1:], self.shown, strict=True):
            place.set_title("intact" if k == 0 else f"k = {k:,}", fontsize=8, loc="left", fontweight="bold")
        self._draw_shares(below.subplots())
        figure.suptitle(f"{self.model}: what becomes of the answers ({self.cell.name})", fontsize=9)
        return figure

    def _draw_shares(self, axes: Axes) -> None:
        colours = ("#56B4E9", "#009E73", "#F0E442", "#E69F00", "#D55E00", "#000000")
        shares = np.array([[p.modes[mode] for p in self.cell.curve] for mode in MODES])
        places = np.arange(len(self.cell.curve))
        base = np.zeros(len(places))
        for mode, colour, values in zip(MODES, colours, shares, strict=True):
            axes.bar(places, values, bottom=base, color=colour, width=0.9, label=mode, edgecolor="white", linewidth=0.5)
            base += values
        axes.set_xticks(places, [f"{k:,}" for k in self.cell.curve.ks], fontsize=7, rotation=45 if len(places) > 14 else 0)
        axes.set_xlabel("number of masked neurons, k (every k that was evaluated)")
        axes.set_ylabel("share of the answers")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)

    def _point(self, k: int) -> Evaluation:
        return self.cell.curve.at(k)


def collapse_modes(subject: Subject) -> CollapseModes:
    """Answers along the curve of the plan's role.

    Args:
        subject: The model; the curve is shared with other parts.
    """
    cell = subject.place("language", subject.plan.role)
    found = cell.collapse
    end = found.k_star if found.k_star is not None else found.largest_k
    standing = [k for k in cell.curve.ks if k < end]
    middle = found.stage1_k if found.stage1_k in standing else standing[-1]
    shown = tuple(dict.fromkeys((0, middle, end)))
    return CollapseModes(subject.name, cell, shown, tuple(subject.measured[: subject.plan.examples]))
