"""How sure k* is: its interval over images, rankings from disjoint images, and from fewer images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lesion.core.similarity import jaccard, overlap, rank_correlation
from lesion.core.tables import Rows
from lesion.data.samples import halves
from lesion.paper.cell import Cell
from lesion.paper.part import Part
from lesion.paper.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORERS = ("can", "activation", "gradient")
TOP = 0.01
"""Share of the neurons whose overlap is given, besides that of the top k*."""


@dataclass(frozen=True)
class Agreement:
    """Two rankings by one scorer, from disjoint halves of the images to rank on.

    Attributes:
        role: Of the language model.
        scorer: What ranked.
        rank_correlation: Spearman's, over all neurons; None where all scores are equal.
        overlap_top: Share of the top :data:`TOP` that both have.
        overlap_k_star: Share of the top k* that both have; k* is that of CAN on all images.
    """

    role: str
    scorer: str
    rank_correlation: float | None
    overlap_top: float
    overlap_k_star: float | None


@dataclass(frozen=True)
class Stability(Part):
    """Whether another draw of images would have given the same answer.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        role: Of the language model, of the curves.
        agreements: Of every role and scorer.
        counts: Number of images to rank on -> curve of the role, measured on the same images.
    """

    name = "stability"
    title = "How sure k* is"
    model: str
    role: str
    agreements: tuple[Agreement, ...]
    counts: dict[int, Cell]

    def words(self) -> list[str]:
        full = self.counts[max(self.counts)]
        interval = "" if full.k_star is None else f"; {full.collapse.interval()}"
        stars = "; ".join(f"{count}: {cell.star()}" for count, cell in self.counts.items())
        lines = [
            f"{self.role}: {full.clause()}{interval}.",
            f"{self.role}, k* by the number of images that the ranking is made from, {stars}.",
        ]
        for a in self.agreements:
            if a.scorer == "can" and a.overlap_k_star is not None and a.rank_correlation is not None:
                lines.append(
                    f"{a.role}: CAN on two disjoint halves of the images shares {100 * a.overlap_k_star:.0f} % of the top k*; "
                    f"rank correlation {a.rank_correlation:.2f}."
                )
        return lines

    def table(self) -> Rows:
        full = self.counts[max(self.counts)].critical
        return [
            {"images": count, "role": self.role, **cell.row(),
             "jaccard_with_all": jaccard(cell.critical, full) if len(full) else None, "curve": cell.name}
            for count, cell in self.counts.items()
        ]  # fmt: skip

    def more_tables(self) -> dict[str, Rows]:
        """Agreement between halves of the images."""
        return {"halves": [vars(a) for a in self.agreements]}

    def plot(self) -> Figure:
        """k* with its interval against the number of images."""
        from lesion.paper.drawing import draw_star
        from lesion.report.figures import BLUE, new_figure, outside_legend

        figure, axes = new_figure(height=3.4)
        panel = axes[0, 0]
        for count, cell in self.counts.items():
            draw_star(panel, cell, count, across=False, colour=BLUE)
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(self.counts), [str(count) for count in self.counts])
        panel.set_yscale("log")
        panel.set_xlabel("images to rank on")
        panel.set_ylabel("k*")
        outside_legend(figure, panel)
        figure.suptitle(f"{self.model}: language {self.role}, from fewer images", fontsize=9)
        return figure


def stability(subject: Subject) -> Stability:
    """Ranks on halves and on fewer of the images; measures on the same ones throughout.

    Args:
        subject: The model.
    """
    role, ranked = subject.plan.role, subject.ranked
    counts = {}
    for count in sorted({n for n in subject.plan.image_counts if n < len(ranked)}):
        images = "1 image" if count == 1 else f"{count} images"
        counts[count] = subject.cell("language", role, f"language {role}, ranked on {images}", ranked=ranked[:count])
    counts[len(ranked)] = subject.cell("language", role)
    agreements = []
    if len(ranked) > 1:
        agreements = [_agreement(subject, r, scorer) for r in subject.language_roles() for scorer in SCORERS]
    return Stability(subject.name, role, tuple(agreements), counts)


def _agreement(subject: Subject, role: str, scorer: str) -> Agreement:
    one, other = (subject.ranking("language", role, scorer, half) for half in halves(subject.ranked))
    k_star = subject.cell("language", role).k_star
    return Agreement(
        role, scorer, rank_correlation(one, other), overlap(one, other, math.ceil(TOP * len(one))),
        None if k_star is None else overlap(one, other, k_star),
    )  # fmt: skip
