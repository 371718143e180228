"""How the experiments draw k*: a point with its interval, and another mark where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lesion.report.figures import GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lesion.paper.cell import Cell

STAR, NO_STAR, UNDECIDED = "k*, 95 % interval over samples", "no k* up to here", "undecided from here on"
"""Labels of legends."""


def draw_star(axes: Axes, cell: Cell, position: float, across: bool = True, colour: str = ORANGE) -> None:
    """Draws a cell's k*.

    Args:
        axes: Into these.
        cell: Whose.
        position: On the other axis.
        across: Whether k runs along the horizontal axis.
        colour: Of k* and its interval; what is no k* is grey.
    """

    def draw(ks: list[int], marker: str, colour: str, label: str, line: str = "none", filled: bool = True) -> None:
        others = [position] * len(ks)
        x, y = (ks, others) if across else (others, ks)
        face = colour if filled else "none"
        axes.plot(x, y, marker=marker, linestyle=line, color=colour, markerfacecolor=face, linewidth=1.5, label=label)

    collapse, (low, high) = cell.collapse, cell.collapse.k_star_ci
    if collapse.k_star is not None:
        if low is not None:  # an interval that is open goes to the largest k, as a dashed line
            draw([low, high or collapse.largest_k], "", colour, "", "-" if high is not None else "--")
        draw([collapse.k_star], "o", colour, STAR)
    elif collapse.undecided:
        draw([collapse.undecided[0]], "s", GREY, UNDECIDED, filled=False)
    else:
        draw([collapse.largest_k], ">" if across else "^", GREY, NO_STAR, filled=False)
