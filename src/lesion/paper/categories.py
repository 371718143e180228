"""Object categories: k* of each, how alike their critical sets are, and whether one category's set breaks another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.ablation.measure import Ablation
from lesion.core.criterion import Decision
from lesion.core.neurons import Neuron
from lesion.core.similarity import jaccard, rank_correlation
from lesion.core.tables import Rows
from lesion.paper.cell import Cell
from lesion.paper.part import Part
from lesion.paper.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Pair:
    """Two categories: Jaccard of their critical sets, Spearman's correlation of their rankings."""

    one: str
    other: str
    jaccard: float | None
    rank_correlation: float | None


@dataclass(frozen=True)
class Transfer:
    """Ranked on one category, its critical set masked, measured on another.

    ``decades`` is ``log10`` of how many times the perplexity of the intact answers rose; None where it is not finite.
    """

    ranked_on: str
    measured_on: str
    masked: int
    decision: Decision
    decades: float | None
    clip_score: float | None
    intact_clip_score: float | None
    evaluation: str
    intact_evaluation: str


@dataclass(frozen=True)
class Categories(Part):
    """The counterpart of the paper's tables by object category, and the transfer between them.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        cells: Category -> curve, ranked and measured on its images.
        pairs: Every two categories.
        transfers: From every category with a critical set to every category.
    """

    name = "categories"
    title = "Object categories"
    model: str
    cells: dict[str, Cell]
    pairs: tuple[Pair, ...]
    transfers: tuple[Transfer, ...]

    @property
    def shared(self) -> Counter[Neuron]:
        """Neuron -> for how many categories it is critical."""
        return Counter(neuron for cell in self.cells.values() for neuron in cell.critical)

    def words(self) -> list[str]:
        if not self.cells:
            return ["The data has no categories, so there is nothing to compare."]
        total = len(self.cells)
        with_star = {name: cell for name, cell in self.cells.items() if cell.k_star is not None}
        undecided = [name for name, cell in self.cells.items() if cell.k_star is None and cell.collapse.undecided]
        open_ones = [f"The samples do not decide k* in: {', '.join(undecided)}."] if undecided else []
        if not with_star:
            return [f"None of the {total} categories has a k*.", *open_ones]
        stars = [cell.k_star or 0 for cell in with_star.values()]
        span = f"{min(stars):,}" if min(stars) == max(stars) else f"{min(stars):,} to {max(stars):,}"
        sizes = sorted({cell.collapse.samples for cell in self.cells.values()})
        images = f"{sizes[0]} to {sizes[-1]} samples" if len(sizes) > 1 else f"{sizes[0]} samples"
        lines = [f"k* is {span} in {len(with_star)} of {total} categories, each measured on {images}.", *open_ones]
        counts = Counter(self.shared.values())
        if len(with_star) > 1:
            every = "every category" if len(with_star) == total else f"each of these {len(with_star)}"
            lines.append(
                f"{counts[len(with_star)]:,} neurons are critical for {every}, {counts[1]:,} for one alone, "
                f"of {len(self.shared):,} that are critical for any."
            )
        across = [t for t in self.transfers if t.ranked_on != t.measured_on]
        if across:
            decisions = Counter(t.decision for t in across)
            unsure = f" {decisions['undecided']} are undecided." if decisions["undecided"] else ""
            lines.append(
                f"Masking one category's critical set collapses another category in {decisions['collapsed']} of "
                f"{len(across)} cases.{unsure}"
            )
        return lines

    def table(self) -> Rows:
        return [{"category": name, **cell.row(), "curve": cell.name} for name, cell in self.cells.items()]

    def more_tables(self) -> dict[str, Rows]:
        rows: list[dict[str, Any]] = []
        for neuron, count in self.shared.most_common():
            critical_for = [name for name, cell in self.cells.items() if neuron in cell.critical]
            rows.append({"neuron": str(neuron), "categories": count, "critical_for": ", ".join(critical_for)})
        return {
            "pairs": [vars(p) for p in self.pairs],
            "transfer": [vars(t) for t in self.transfers],
            "neurons": rows,
        }

    def plot(self) -> Figure:
        """The transfer matrix and the Jaccard matrix."""
        from lesion.report.figures import new_figure

        figure, axes = new_figure(1, 2, width=10.0, height=4.6)
        if not self.cells:
            for panel in axes[0]:
                panel.set_axis_off()
            figure.suptitle(f"{self.model}: the data has no categories", fontsize=9)
            return figure
        names, left, right = list(self.cells), *axes[0]
        row_of = {name: i for i, name in enumerate(names)}
        rises = np.full((len(names), len(names)), np.nan)
        alike = np.full_like(rises, np.nan)
        for name, cell in self.cells.items():
            if len(cell.critical):
                alike[row_of[name], row_of[name]] = 1
        for t in self.transfers:
            rises[row_of[t.ranked_on], row_of[t.measured_on]] = np.nan if t.decades is None else t.decades
        for p in self.pairs:
            i, j = row_of[p.one], row_of[p.other]
            alike[i, j] = alike[j, i] = np.nan if p.jaccard is None else p.jaccard
        for panel, values, title, top in (
            (left, rises, "log10 of the perplexity's rise (dot: collapsed, ?: undecided)", None),
            (right, alike, "Jaccard of the critical sets", 1.0),
        ):
            image = panel.imshow(values, cmap="viridis", vmin=0, vmax=top)
            panel.set_xticks(range(len(names)), names, rotation=45, fontsize=8, ha="right")
            panel.set_yticks(range(len(names)), names, fontsize=8)
            panel.set_title(title, fontsize=9)
            figure.colorbar(image, ax=panel, shrink=0.8)
        marks: dict[Decision, str] = {"collapsed": "o", "undecided": "$?$"}
        for t in self.transfers:
            if t.decision in marks:
                left.plot(row_of[t.measured_on], row_of[t.ranked_on], marker=marks[t.decision], color="white",
                          markeredgecolor="black", markersize=5)  # fmt: skip
        left.set_xlabel("measured on")
        left.set_ylabel("ranked on")
        figure.suptitle(f"{self.model}: critical neurons by object category", fontsize=9)
        return figure


def categories(subject: Subject) -> Categories:
    """Ranks on each category, and measures what each critical set does to every category.

    Args:
        subject: The model, with its images by category.
    """
    role = subject.plan.role
    ablations = {name: subject.ablation(measured) for name, (_, measured) in subject.categories.items()}
    cells = {
        name: subject.cell("language", role, f"language {role}, {name}", ranked=ranked, measured=measured)
        for name, (ranked, measured) in subject.categories.items()
    }
    pairs = []
    for one, other in combinations(cells, 2):
        sets = cells[one].critical, cells[other].critical
        pairs.append(
            Pair(
                one, other, jaccard(*sets) if len(sets[0]) and len(sets[1]) else None,
                rank_correlation(cells[one].ranking, cells[other].ranking),
            )
        )  # fmt: skip
    transfers = [
        _transfer(one, other, cells[one], ablations[other])
        for one in cells
        if len(cells[one].critical)
        for other in cells
    ]  # fmt: skip
    return Categories(subject.name, cells, tuple(pairs), tuple(transfers))


def _transfer(one: str, other: str, ranked: Cell, ablation: Ablation) -> Transfer:
    point, intact = ablation(ranked.critical), ablation.baseline.intact
    after, before = point.metrics["nll_reference"], intact.metrics["nll_reference"]
    return Transfer(
        one, other, point.k, ablation.decide(point),
        None if after is None or before is None else (after - before) / float(np.log(10)),
        point.metrics["clip_score"], intact.metrics["clip_score"], point.key, intact.key,
    )  # fmt: skip
