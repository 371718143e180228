"""Where the critical neurons are: k* of every component and role, and the layers of each critical set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.sites import ALL
from lesion.core.tables import Rows
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Location:
    """A component (or ``all``), a role (or ``all``), and its cell."""

    component: str
    role: str
    cell: Cell

    def __str__(self) -> str:
        component = "all components" if self.component == ALL else self.component
        return f"{component}, {'all roles' if self.role == ALL else self.role}"


@dataclass(frozen=True)
class Where(Part):
    """The paper's question where the critical neurons sit (arXiv 2512.00918, its tables by component and role)."""

    name = "where"
    title = "Where the critical neurons are"
    model: str
    places: tuple[Location, ...]

    def words(self) -> list[str]:
        found = [p for p in self.places if p.cell.collapse.k_star is not None]
        if not found:
            return ["No part of the model collapses it, however many of its neurons are masked."]
        least = min(found, key=lambda p: p.cell.collapse.k_star or 0)
        lines = [
            f"The smallest k* is {least.cell.collapse.k_star:,} of {len(least.cell.ranking):,} neurons: "
            f"{least}."
        ]
        for component in dict.fromkeys(p.component for p in self.places if p.component not in (ALL, "language")):
            inside = [p for p in self.places if p.component == component]
            stars = {p.role: p.cell.collapse.k_star for p in inside}
            said = ", ".join(
                f"{role} {k:,}" if k is not None else f"{role} none up to all {len(p.cell.ranking):,}"
                for (role, k), p in zip(stars.items(), inside, strict=True)
            )
            lines.append(f"In the {component} part alone, k* is: {said}.")
        return lines

    def table(self) -> Rows:
        return [{"component": p.component, "role": p.role, **p.cell.row(), "curve": p.cell.name} for p in self.places]

    def more_tables(self) -> dict[str, Rows]:
        """The layers of each critical set."""
        rows = [
            {"component": p.component, "role": p.role, "in": component, "layer": layer, "critical": count}
            for p in self.places
            for (component, layer), count in p.cell.critical.by_layer().items()
        ]
        return {"layers": rows}

    def plot(self) -> Figure:
        """Share of the neurons that k* is, and in which layers the critical sets of all components lie."""
        from lesion.report.figures import GREY, ORANGE, new_figure

        figure, axes = new_figure(1, 2, width=9.0, height=0.3 * len(self.places) + 1.8)
        left, right = axes[0]
        names = [str(p) for p in self.places]
        for y, place in enumerate(self.places):
            k_star, total = place.cell.collapse.k_star, len(place.cell.ranking)
            if k_star is None:
                tried = place.cell.collapse.largest_k / total
                left.plot(tried, y, ">", color=GREY, markerfacecolor="none")
                left.annotate(f"none up to {place.cell.collapse.largest_k:,}", (tried, y), (-6, 0),
                              textcoords="offset points", fontsize=7, ha="right", va="center")  # fmt: skip
            else:
                left.plot(k_star / total, y, "o", color=ORANGE)
                left.annotate(f"{k_star:,} of {total:,}", (k_star / total, y), (6, 0) if k_star / total < 0.05 else (-6, 0),
                              textcoords="offset points", fontsize=7, ha="left" if k_star / total < 0.05 else "right",
                              va="center")  # fmt: skip
        left.set_xscale("log")
        left.set_xlim(left.get_xlim()[0] / 2, 1.6)
        left.set_yticks(range(len(names)), names, fontsize=8)
        left.invert_yaxis()
        left.set_xlabel("k* as a share of the neurons")
        left.grid(axis="x", alpha=0.3)
        self._draw_layers(right)
        figure.suptitle(f"{self.model}: where masking collapses the model", fontsize=9)
        return figure

    def _draw_layers(self, axes: Axes) -> None:
        chosen = [p for p in self.places if p.component == ALL]
        places = sorted(
            {(s.component, s.layer) for p in chosen for s in p.cell.ranking.sites},
            key=lambda at: next(s.order for p in chosen for s in p.cell.ranking.sites if (s.component, s.layer) == at),
        )
        shares = np.array([[p.cell.critical.by_layer().get(at, 0) for at in places] for p in chosen], dtype=float)
        shares /= np.maximum(shares.sum(1, keepdims=True), 1)
        image = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axes.set_yticks(range(len(chosen)), [p.role for p in chosen], fontsize=8)
        step = max(1, len(places) // 12)
        axes.set_xticks(range(0, len(places), step), [f"{c} {n}" for c, n in places[::step]], rotation=90, fontsize=7)
        axes.set_title("layers of the critical set, all components together", fontsize=8)
        axes.figure.colorbar(image, ax=axes, label="share of the critical set")


def where(subject: Subject) -> Where:
    """Sweeps every component and role, and all components together.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    places = [(c, r) for c in subject.components for r in subject.roles(c)]
    places += [(ALL, r) for r in (*subject.roles(ALL), ALL)]
    return Where(subject.name, tuple(Location(c, r, subject.place(c, r)) for c, r in places))
