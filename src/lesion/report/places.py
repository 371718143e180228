"""Where the important neurons are: the map of layers and roles, as data, as a figure, and as the report draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.sites import COMPONENTS, ROLES
from lesion.report.charts import RIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lesion.study.result import SiteSummary

DECADES = 4.0
"""The map tells importances apart that are at most so many powers of ten below the highest."""
SIDE, NAME = 30, 96
"""Largest width of a cell in the report's drawing, and the room for the names of the roles."""


@dataclass(frozen=True)
class Cell:
    """One layer and role of a component; its experts are taken together.

    Attributes:
        layer: 0-based.
        role: See :mod:`lesion.core.sites`.
        mean: Importance, mean over the neurons.
        highest: Importance of the most important neuron.
        critical: How many of the top k* are here.
        width: Neurons.
        experts: How many experts; 0 where there are none.
        reachable: False where none of the neurons has any effect on the answer.
    """

    layer: int
    role: str
    mean: float
    highest: float
    critical: int
    width: int
    experts: int
    reachable: bool


@dataclass(frozen=True)
class Grid:
    """One component's cells."""

    component: str
    layers: list[int]
    roles: list[str]
    cells: list[Cell]


class Shade:
    """From an importance to how dark its cell is, 0 to 1: logarithmic, :data:`DECADES` deep."""

    def __init__(self, grids: Sequence[Grid]) -> None:
        self.highest = max((c.highest for grid in grids for c in grid.cells if c.reachable), default=0.0)

    @property
    def lowest(self) -> float:
        return self.highest / 10**DECADES

    def __call__(self, value: float) -> float:
        if value <= 0 or self.highest <= 0:
            return 0.0
        return float(np.clip(1 + math.log10(value / self.highest) / DECADES, 0, 1))


def grids(places: Sequence[SiteSummary]) -> list[Grid]:
    """The map: one grid a component, in the order in which data flows."""
    found: list[Grid] = []
    for component in sorted({p.component for p in places}, key=_order(COMPONENTS)):
        inside: dict[tuple[int, str], list[SiteSummary]] = {}
        for place in (p for p in places if p.component == component):
            inside.setdefault((place.layer, place.role), []).append(place)
        layers = sorted({layer for layer, _ in inside})
        roles = sorted({role for _, role in inside}, key=_order(ROLES))
        found.append(Grid(component, layers, roles, [_cell(*at, members) for at, members in inside.items()]))
    return found


def _order(names: Sequence[str]):
    return lambda name: (names.index(name) if name in names else len(names), name)


def _cell(layer: int, role: str, members: Sequence[SiteSummary]) -> Cell:
    width = sum(p.width for p in members)
    return Cell(
        layer, role, sum(p.mean * p.width for p in members) / max(width, 1), max(p.highest for p in members),
        sum(p.critical for p in members), width, sum(p.expert is not None for p in members),
        any(p.reachable for p in members),
    )  # fmt: skip


# -- the report's drawing ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Square:
    """A cell as drawn."""

    x: float
    y: float
    shade: float
    cell: Cell


@dataclass(frozen=True)
class Map:
    """One component as drawn, ``side`` wide and :data:`SIDE` high cells."""

    component: str
    width: float
    height: float
    side: float
    roles: list[tuple[float, str]]
    layers: list[tuple[float, str]]
    squares: list[Square]


def draw_maps(found: Sequence[Grid]) -> list[Map]:
    """Where every cell goes; all components share one scale of importance and one size of cell."""
    shade = Shade(found)
    longest = max((len(grid.layers) for grid in found), default=1)
    side = round(min(SIDE, (RIGHT - NAME) / longest), 1)
    return [_draw(grid, shade, side) for grid in found]


def _draw(grid: Grid, shade: Shade, side: float) -> Map:
    xs = {layer: round(NAME + i * side, 1) for i, layer in enumerate(grid.layers)}
    ys = {role: 4 + i * SIDE for i, role in enumerate(grid.roles)}
    step = max(1, math.ceil(20 / side))
    squares = [Square(xs[c.layer], ys[c.role], round(0.08 + 0.92 * shade(c.highest), 3), c) for c in grid.cells]
    return Map(
        grid.component, NAME + max(side * len(grid.layers), SIDE) + 8, 4 + SIDE * len(grid.roles) + 34, side,
        [(y + SIDE / 2 + 4, r) for r, y in ys.items()],
        [(xs[n] + side / 2, str(n)) for n in grid.layers[::step]], squares,
    )  # fmt: skip


# -- as a figure ---------------------------------------------------------------------------------------------------------
def plot_places(places: Sequence[SiteSummary], title: str = "") -> Figure:
    """The map as a figure: importance of the most important neuron of every layer and role, critical ones counted.

    Args:
        places: Every site.
        title: Above the figure.
    """
    from lesion.report.figures import ORANGE, new_figure

    found = grids(places)
    shade = Shade(found)
    rows = [len(grid.roles) for grid in found]
    figure, axes = new_figure(
        max(len(found), 1), width=7.2, height=1.3 + sum(0.34 * n + 0.55 for n in rows), height_ratios=rows or [1]
    )
    image = None
    for place, grid in zip(axes[:, 0], found, strict=False):
        values = np.full((len(grid.roles), len(grid.layers)), np.nan)
        for cell in grid.cells:
            row, column = grid.roles.index(cell.role), grid.layers.index(cell.layer)
            if cell.reachable:
                values[row, column] = max(cell.highest, shade.lowest)
            if cell.critical:
                place.text(column, row, f"{cell.critical:,}", ha="center", va="center", fontsize=8, weight="bold",
                           color="white" if shade(cell.highest) > 0.55 else "black")  # fmt: skip
                place.add_patch(_frame(column, row, ORANGE))
        image = place.pcolormesh(
            np.arange(len(grid.layers) + 1) - 0.5, np.arange(len(grid.roles) + 1) - 0.5, np.ma.masked_invalid(values),
            cmap="Blues", norm=_norm(shade), edgecolors="white", linewidth=1.5,
        )  # fmt: skip
        for row, column in zip(*np.nonzero(np.isnan(values)), strict=True):
            place.add_patch(_frame(int(column), int(row), "0.8"))
        place.set_xlim(-0.5, max(len(g.layers) for g in found) - 0.5)
        place.set_ylim(len(grid.roles) - 0.5, -0.5)
        step = max(1, math.ceil(len(grid.layers) / 24))
        place.set_xticks(range(0, len(grid.layers), step), [str(n) for n in grid.layers[::step]], fontsize=8)
        place.set_yticks(range(len(grid.roles)), grid.roles, fontsize=8)
        place.set_ylabel(grid.component, fontsize=9)
        place.tick_params(length=0)
        place.spines[:].set_visible(False)
    axes[-1, 0].set_xlabel("layer (orange, counted: critical neurons; empty: no effect on the answer)", fontsize=8)
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes[:, 0]))
        bar.set_label("highest importance", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def _norm(shade: Shade):
    from matplotlib.colors import LogNorm

    return LogNorm(shade.lowest, shade.highest) if shade.highest > 0 else LogNorm(0.1, 1)


def _frame(column: int, row: int, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=1.8, zorder=3)
