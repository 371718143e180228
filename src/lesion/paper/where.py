"""Where the critical neurons are: k* of every component and role, and the layers of each critical set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.sites import ALL, ROLES
from lesion.core.tables import Rows
from lesion.paper.cell import Cell
from lesion.paper.part import Part
from lesion.paper.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Where(Part):
    """The paper's question where the critical neurons sit (arXiv 2512.00918, its tables by component and role).

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        cells: One a component and role, attention heads among the roles, then all components together.
    """

    name = "where"
    title = "Where the critical neurons are"
    model: str
    cells: tuple[Cell, ...]

    def words(self) -> list[str]:
        lines = [self._least([c for c in self.cells if c.key.role in (*ROLES, ALL)])]
        for component in dict.fromkeys(c.key.component for c in self.cells if c.key.component != ALL):
            inside = [c for c in self.cells if c.key.component == component and c.key.role in ROLES]
            stars = ", ".join(f"{c.key.role} {c.star()}" for c in inside)
            lines.append(f"k* in the {component} part alone: {stars}.")
        others = [c for c in self.cells if c.key.role not in (*ROLES, ALL)]
        for role in dict.fromkeys(c.key.role for c in others):
            what = "attention heads, each counted as one" if role == "head" else f"{role} sites"
            inside = [c for c in others if c.key.role == role]
            stars = ", ".join(f"{_component(c)} {c.star()} of {len(c.ranking):,}" for c in inside if c.k_star is not None)
            without = ", ".join(f"{_component(c)} {c.star()}" for c in inside if c.k_star is None)
            lines.append(f"k* in {what}: {', '.join(part for part in (stars, without) if part)}.")
        return [*lines, f"Measured on {self.cells[0].collapse.samples} samples."]

    def _least(self, cells: list[Cell]) -> str:
        """The smallest k* among feed-forward neurons."""
        stars = [c.k_star for c in cells if c.k_star is not None]
        if stars:
            least = [c for c in cells if c.k_star == min(stars)]
            which = "; ".join(f"{describe(c)} (of {len(c.ranking):,} neurons)" for c in least)
            return f"The smallest k* is {min(stars):,}, in: {which}."
        undecided = [describe(c) for c in cells if c.collapse.undecided]
        if undecided:
            return f"No part of the model has a k*; the samples do not decide everything in: {'; '.join(undecided)}."
        if all(c.collapse.largest_k == len(c.ranking) for c in cells):
            return "No part of the model collapses it for good, however many of its neurons are masked."
        return f"No k* up to {max(c.collapse.largest_k for c in cells):,} neurons in any part; larger sets were not tried."

    def table(self) -> Rows:
        return [{"component": c.key.component, "role": c.key.role, **c.row(), "curve": c.name} for c in self.cells]

    def more_tables(self) -> dict[str, Rows]:
        """The layers of each critical set."""
        rows = [
            {"component": c.key.component, "role": c.key.role, "in": component, "layer": layer, "critical": count}
            for c in self.cells
            for (component, layer), count in c.critical.by_layer().items()
        ]
        return {"layers": rows}

    def plot(self) -> Figure:
        """Share of the neurons that k* is, and in which layers the critical sets of all components lie."""
        from lesion.report.figures import GREY, ORANGE, new_figure

        figure, axes = new_figure(1, 2, width=9.0, height=0.3 * len(self.cells) + 1.8)
        left, right = axes[0]
        for y, cell in enumerate(self.cells):
            total, reached = len(cell.ranking), cell.k_star is not None
            x = (cell.k_star or cell.collapse.largest_k) / total
            if reached:
                left.plot(x, y, "o", color=ORANGE)
            else:
                left.plot(x, y, "s" if cell.collapse.undecided else ">", color=GREY, markerfacecolor="none")
            before = reached and x < 0.05
            text = f"{cell.k_star:,} of {total:,}" if reached else "undecided" if cell.collapse.undecided else cell.star()
            left.annotate(text, (x, y), (6, 0) if before else (-6, 0), textcoords="offset points", fontsize=7,
                          ha="left" if before else "right", va="center")  # fmt: skip
        left.set_xscale("log")
        left.set_xlim(left.get_xlim()[0] / 2, 1.6)
        left.set_yticks(range(len(self.cells)), [describe(c) for c in self.cells], fontsize=8)
        left.invert_yaxis()
        left.set_xlabel("k* as a share of the neurons (open: no k*)")
        left.grid(axis="x", alpha=0.3)
        self._draw_layers(right)
        figure.suptitle(f"{self.model}: where masking collapses the model", fontsize=9)
        return figure

    def _draw_layers(self, axes: Axes) -> None:
        chosen = [c for c in self.cells if c.key.component == ALL]
        if not chosen:
            axes.set_axis_off()
            return
        sites = sorted((s for c in chosen for s in c.ranking.sites), key=lambda s: s.order)
        layers = list(dict.fromkeys((s.component, s.layer) for s in sites))
        shares = np.array([[c.critical.by_layer().get(at, 0) for at in layers] for c in chosen], dtype=float)
        shares /= np.maximum(shares.sum(1, keepdims=True), 1)
        image = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        names = [c.key.role + ("" if c.k_star is not None else "\n(no k*)") for c in chosen]
        axes.set_yticks(range(len(chosen)), names, fontsize=8)
        step = max(1, len(layers) // 12)
        axes.set_xticks(range(0, len(layers), step), [f"{c} {n}" for c, n in layers[::step]], rotation=90, fontsize=7)
        axes.set_title("layers of the critical set, all components together", fontsize=8)
        axes.figure.colorbar(image, ax=axes, label="share of the critical set")


def describe(cell: Cell) -> str:
    """Component and role, for people."""
    role = {ALL: "all roles", "head": "heads"}.get(cell.key.role, cell.key.role)
    return f"{_component(cell)}, {role}"


def _component(cell: Cell) -> str:
    return "all components" if cell.key.component == ALL else cell.key.component


def where(subject: Subject) -> Where:
    """Sweeps every component and role, and all components together.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    pairs = [(component, role) for component in subject.components for role in subject.roles(component)]
    together = [role for role in subject.roles(ALL) if role in ROLES or sum(r == role for _, r in pairs) > 1]
    pairs += [(ALL, role) for role in (*together, ALL)]
    return Where(subject.name, tuple(subject.cell(component, role) for component, role in pairs))
