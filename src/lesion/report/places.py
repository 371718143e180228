"""Where the important neurons are: the map of layers and roles, as data and as the report draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesion.core.sites import COMPONENTS, ROLES
from lesion.report.charts import RIGHT
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
    maps: list[Grid] = []
    for component in sorted({p.component for p in places}, key=_order(COMPONENTS)):
        inside: dict[tuple[int, str], list[SiteSummary]] = {}
        for place in (p for p in places if p.component == component):
            inside.setdefault((place.layer, place.role), []).append(place)
        layers = sorted({layer for layer, _ in inside})
        roles = sorted({role for _, role in inside}, key=_order(ROLES))
        maps.append(Grid(component, layers, roles, [_cell(*at, members) for at, members in inside.items()]))
    return maps


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


def draw_maps(every: Sequence[Grid]) -> list[Map]:
    """Where every cell goes; all components share one scale of importance and one size of cell."""
    shade = Shade(every)
    longest = max((len(grid.layers) for grid in every), default=1)
    side = round(min(SIDE, (RIGHT - NAME) / longest), 1)
    return [_draw(grid, shade, side) for grid in every]


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
