"""How sure k* is: its interval over images, rankings from disjoint images, and from fewer images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lesion.core.similarity import jaccard, overlap, rank_correlation
from lesion.core.tables import Rows
from lesion.data.samples import halves
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORERS = ("can", "activation", "gradient")
TOP = 0.01
"""Share of the neurons whose overlap is given, besides that of the top k*."""


@dataclass(frozen=True)
class HalvesAgree:
    """Two rankings by one scorer, from disjoint halves of the images to rank on.

    Attributes:
        role: Of the language model.
        scorer: What ranked.
        rank_correlation: Spearman's, over all neurons.
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
        agreements: Of every role and scorer.
        counts: Number of images to rank on -> curve of the plan's role, measured on the same images.
    """

    name = "stability"
    title = "How sure k* is"
    model: str
    role: str
    agreements: tuple[HalvesAgree, ...]
    counts: dict[int, Cell]

    def words(self) -> list[str]:
        stars = {count: cell.collapse.k_star for count, cell in self.counts.items()}
        said = ", ".join(f"{k:,} from {count}" if k is not None else f"none from {count}" for count, k in stars.items())
        full = self.counts[max(self.counts)].collapse
        low, high = (f"{end:,}" if end is not None else "none" for end in full.k_star_ci)
        lines = [
            f"{self.role}: the 95 % interval of k* over the images that it is measured on is {low} to {high}.",
            f"{self.role}: k* by the number of images that the ranking is made from: {said}.",
        ]
        for a in self.agreements:
            if a.scorer == "can" and a.overlap_k_star is not None and a.rank_correlation is not None:
                lines.append(
                    f"{a.role}: CAN on two disjoint halves of the images shares {a.overlap_k_star:.0%} of the top k*; "
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
        from lesion.report.figures import BLUE, GREY, new_figure, outside_legend

        figure, axes = new_figure(height=3.4)
        place = axes[0, 0]
        for count, cell in self.counts.items():
            found = cell.collapse
            if found.k_star is None:
                place.plot(count, found.largest_k, "^", color=GREY, markerfacecolor="none", label="no collapse up to here")
                continue
            low, high = found.k_star_ci
            place.plot([count, count], [low or found.k_star, high or found.largest_k], "-", color=BLUE)
            place.plot(count, found.k_star, "o", color=BLUE, label="k*, 95 % interval over images")
        place.set_xscale("log", base=2)
        place.set_xticks(list(self.counts), [str(count) for count in self.counts])
        place.set_yscale("log")
        place.set_xlabel("images to rank on")
        place.set_ylabel("k*")
        outside_legend(figure, place)
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
        ranking = subject.ranking("language", role, "can", ranked[:count])
        counts[count] = subject.cell(f"language {role}, ranked on {count} images", ranking, subject.measuring())
    counts[len(ranked)] = subject.place("language", role)
    agreements = []
    if len(ranked) > 1:
        agreements = [_agreement(subject, r, scorer) for r in subject.roles("language") for scorer in SCORERS]
    return Stability(subject.name, role, tuple(agreements), counts)


def _agreement(subject: Subject, role: str, scorer: str) -> HalvesAgree:
    one, other = (subject.ranking("language", role, scorer, half) for half in halves(subject.ranked))
    k_star = subject.place("language", role).collapse.k_star
    return HalvesAgree(
        role, scorer, rank_correlation(one, other), overlap(one, other, math.ceil(TOP * len(one))),
        None if k_star is None else overlap(one, other, k_star),
    )  # fmt: skip
