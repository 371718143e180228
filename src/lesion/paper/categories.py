"""Object categories: k* of each, how alike their critical sets are, and whether one category's set breaks another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.neurons import Neuron
from lesion.core.similarity import jaccard, rank_correlation
from lesion.core.tables import Rows
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject
from lesion.study.bench import Measurement

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
    collapsed: bool
    decades: float | None
    clip_score: float | None
    intact_clip_score: float | None
    evaluation: str
    intact_evaluation: str


@dataclass(frozen=True)
class Categories(Part):
    """The counterpart of the paper's tables by object category, and the transfer between them."""

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
        stars = {name: cell.collapse.k_star for name, cell in self.cells.items()}
        known = [k for k in stars.values() if k is not None]
        if not known:
            return [f"None of the {len(stars)} categories has a collapse."]
        span = f"{min(known):,}" if min(known) == max(known) else f"{min(known):,} to {max(known):,}"
        lines = [f"k* is {span} in {len(known)} of {len(stars)} categories."]
        counts = Counter(self.shared.values())
        lines.append(
            f"{counts[len(stars)]:,} neurons are critical for every category, {counts[1]:,} for one alone, "
            f"of {len(self.shared):,} that are critical for any."
        )
        across = [t for t in self.transfers if t.ranked_on != t.measured_on]
        fallen = sum(t.collapsed for t in across)
        lines.append(f"Masking one category's critical set collapses another category in {fallen} of {len(across)} cases.")
        return lines

    def table(self) -> Rows:
        return [{"category": n, **cell.row(), "curve": cell.name} for n, cell in self.cells.items()]

    def more_tables(self) -> dict[str, Rows]:
        rows: list[dict[str, Any]] = []
        for neuron, count in self.shared.most_common():
            where = [name for name, cell in self.cells.items() if neuron in cell.critical]
            rows.append({"neuron": str(neuron), "categories": count, "critical_for": " ".join(where)})
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
            for place in axes[0]:
                place.set_axis_off()
            figure.suptitle(f"{self.model}: the data has no categories", fontsize=9)
            return figure
        names, left, right = list(self.cells), *axes[0]
        at = {name: i for i, name in enumerate(names)}
        moved = np.full((len(names), len(names)), np.nan)
        alike = np.eye(len(names))
        for t in self.transfers:
            moved[at[t.ranked_on], at[t.measured_on]] = np.nan if t.decades is None else t.decades
        for p in self.pairs:
            alike[at[p.one], at[p.other]] = alike[at[p.other], at[p.one]] = np.nan if p.jaccard is None else p.jaccard
        for place, values, title, top in (
            (left, moved, "log10 of the perplexity's rise (dot: collapsed)", None),
            (right, alike, "Jaccard of the critical sets", 1.0),
        ):
            image = place.imshow(values, cmap="viridis", vmin=0, vmax=top)
            place.set_xticks(range(len(names)), names, rotation=45, fontsize=8, ha="right")
            place.set_yticks(range(len(names)), names, fontsize=8)
            place.set_title(title, fontsize=9)
            figure.colorbar(image, ax=place, shrink=0.8)
        for t in self.transfers:
            if t.collapsed:
                left.plot(at[t.measured_on], at[t.ranked_on], "o", color="white", markeredgecolor="black", markersize=5)
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
    measures = {name: subject.measuring(measured) for name, (_, measured) in subject.categories.items()}
    cells = {
        name: subject.cell(f"language {role}, {name}", subject.ranking("language", role, "can", ranked), measures[name])
        for name, (ranked, _) in subject.categories.items()
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
        _transfer(one, other, cells[one], cells[other], measures[other])
        for one in cells
        if len(cells[one].critical)
        for other in cells
    ]  # fmt: skip
    return Categories(subject.name, cells, tuple(pairs), tuple(transfers))


def _transfer(one: str, other: str, ranked: Cell, measured: Cell, measure: Measurement) -> Transfer:
    critical = ranked.critical
    point, intact = measure(critical), measured.curve.intact
    after, before = point.metrics["nll_reference"], intact.metrics["nll_reference"]
    return Transfer(
        one, other, len(critical), measure.judge.collapsed(point),
        None if after is None or before is None else (after - before) / float(np.log(10)),
        point.metrics["clip_score"], intact.metrics["clip_score"], measure.key(critical),
        measured.keys[0],
    )  # fmt: skip
