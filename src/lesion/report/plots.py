"""Figures of a study: the two-stage curve, and the map of where the important neurons are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.curve import Curve
from lesion.core.importance import Importance
from lesion.core.metrics import METRICS
from lesion.report.figures import BLUE, GREY, ORANGE, STYLE, new_figure, number, save_figure
from lesion.report.places import Grid, Shade, grids
from lesion.study.result import Result, SiteSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE, MAP = "curve", "map"
"""Names of a study's figures."""


def save_figures(result: Result, folder: str | Path) -> None:
    """Writes a study's figures, ``curve`` and ``map``, into a folder; made from nothing but its result.

    Raises:
        OSError: The folder or a file cannot be written.
    """
    save_figure(plot_curve(result), Path(folder), CURVE)
    save_figure(plot_places(result), Path(folder), MAP)


# -- the curve -----------------------------------------------------------------------------------------------------------
def plot_curve(curve: Curve | Result, collapse: Collapse | None = None, title: str = "") -> Figure:
    """Perplexity of the intact answers and CLIP score against k, with the stages shaded and the chance level drawn.

    Args:
        curve: A curve, or a study's result.
        collapse: What the curve says. Default: what the result says, or :func:`~lesion.core.collapse.detect_collapse`.
        title: Above the figure. Default: the result's verdict.
    """
    if isinstance(curve, Result):
        collapse, title, curve = collapse or curve.collapse, title or curve.verdict, curve.read_curve()
    figure, axes = new_figure()
    handles = draw_curve(axes[0, 0], curve, collapse or detect_collapse(curve))
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def draw_curve(axes: Axes, curve: Curve, collapse: Collapse) -> tuple[list[Any], list[str]]:
    """Draws a curve into axes of your own; returns the handles and labels of its legend."""
    ks = np.array(curve.ks)
    decades = np.array([number(p.metrics["nll_reference"]) for p in curve]) / np.log(10)
    bands = curve.bands()
    low, high = bands.nll.T / np.log(10)
    finite = np.isfinite(high)
    axes.fill_between(ks[finite], low[finite], high[finite], color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(ks, decades, "o-", color=BLUE, markersize=4, label=f"{METRICS['ppl_reference'].label} (left)")
    for k, value in zip(ks, decades, strict=True):
        if not np.isfinite(value):
            axes.axvline(k, color=BLUE, linestyle=":", linewidth=1)
    open_ks = np.isin(ks, collapse.undecided)
    if open_ks.any():
        axes.plot(
            ks[open_ks], decades[open_ks], "o", markersize=6, color=BLUE, markerfacecolor="white", label="undecided", zorder=4
        )
    k_axis(axes, curve, collapse)
    axes.set_ylabel("log10 perplexity", color=BLUE)
    end = ks[-1] * 1.1
    if collapse.stage1_k is not None:
        axes.axvspan(collapse.stage1_k, collapse.k_star or end, color=ORANGE, alpha=0.10, label="stage 1", linewidth=0)
    if collapse.k_star is not None:
        axes.axvspan(collapse.k_star, end, color=ORANGE, alpha=0.28, label="stage 2: collapse", linewidth=0)
    handles, labels = axes.get_legend_handles_labels()
    more = _draw_scores(axes, curve, bands.clip)
    return handles + more[0], labels + more[1]


def _draw_scores(axes: Axes, curve: Curve, band: np.ndarray | None) -> tuple[list[Any], list[str]]:
    """CLIP scores on an axis of their own; nothing where they were not measured."""
    import matplotlib

    metric = METRICS["clip_score"]
    scores = [p.metrics[metric.name] for p in curve]
    if any(s is None for s in scores):
        return [], []
    with matplotlib.rc_context(STYLE):
        right = axes.twinx()
    if band is not None:
        right.fill_between(curve.ks, *band.T, color=ORANGE, alpha=0.2, linewidth=0)
    right.plot(curve.ks, [number(s) for s in scores], "s--", color=ORANGE, markersize=4, label=f"{metric.label} (right)")
    right.set_ylabel(metric.label, color=ORANGE)
    right.set_ylim(0, 100)
    if curve.chance is not None:
        right.axhline(float(curve.chance.mean()), color=GREY, linestyle="-.", label=f"{metric.label} at chance (right)")
    return right.get_legend_handles_labels()


def k_axis(axes: Axes, curve: Curve, collapse: Collapse) -> None:
    """The x axis of a curve: base 2 from 1 on, with 0 for the intact model, and ticks that do not run into each other."""
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xlim(0, max(curve.ks[-1], 1) * 1.1)
    shown: list[int] = sorted({0, 1, *(k for k in curve.ks if k & (k - 1) == 0)})
    k_star = collapse.k_star
    if k_star is not None:
        shown = sorted([k for k in shown if not k_star / 1.5 < k < k_star * 1.5] + [k_star])
    axes.set_xticks(shown, [f"{k:,}" for k in shown], rotation=45 if len(shown) > 8 else 0)
    axes.set_xlabel("number of masked neurons, k")


# -- the map -------------------------------------------------------------------------------------------------------------
def plot_places(source: Result | Importance, title: str = "") -> Figure:
    """The map of layers and roles: importance of the most important neuron of each, with critical neurons counted.

    Args:
        source: A study's result, or an importance, which knows of no critical neurons.
        title: Above the figure. Default: what is shown.
    """
    if isinstance(source, Importance):
        places = [SiteSummary.of(site, source.values(site)) for site in source.sites]
        return _draw_map(places, title or f"importance by {source.scorer}")
    what = f"{source.model}: importance by {source.scorer}, k* of {source.component} {source.role}"
    return _draw_map(source.places, title or what)


def _draw_map(places: Sequence[SiteSummary], title: str) -> Figure:
    maps = grids(places)
    shade = Shade(maps)
    rows = [len(grid.roles) for grid in maps]
    figure, axes = new_figure(
        max(len(maps), 1), width=7.2, height=1.3 + sum(0.34 * n + 0.55 for n in rows), height_ratios=rows or [1]
    )
    longest = max((len(grid.layers) for grid in maps), default=1)
    image = None
    for own, grid in zip(axes[:, 0], maps, strict=False):
        image = _draw_grid(own, grid, shade, longest)
    axes[-1, 0].set_xlabel("layer (orange, with a number: critical neurons; empty: no effect on the answer)", fontsize=8)
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes[:, 0]))
        bar.set_label("highest importance", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def _draw_grid(axes: Axes, grid: Grid, shade: Shade, longest: int) -> Any:
    """One component; returns what a colour bar is made from."""
    values = np.full((len(grid.roles), len(grid.layers)), np.nan)
    for cell in grid.cells:
        row, column = grid.roles.index(cell.role), grid.layers.index(cell.layer)
        if cell.reachable:
            values[row, column] = max(cell.highest, shade.lowest)
        if cell.critical:
            axes.text(column, row, f"{cell.critical:,}", ha="center", va="center", fontsize=8, weight="bold",
                      color="white" if shade(cell.highest) > 0.55 else "black")  # fmt: skip
            axes.add_patch(_frame(column, row, ORANGE))
    image = axes.pcolormesh(
        np.arange(len(grid.layers) + 1) - 0.5, np.arange(len(grid.roles) + 1) - 0.5, np.ma.masked_invalid(values),
        cmap="Blues", norm=_norm(shade), edgecolors="white", linewidth=1.5,
    )  # fmt: skip
    for row, column in zip(*np.nonzero(np.isnan(values)), strict=True):
        axes.add_patch(_frame(int(column), int(row), "0.8"))
    axes.set_xlim(-0.5, longest - 0.5)
    axes.set_ylim(len(grid.roles) - 0.5, -0.5)
    step = max(1, math.ceil(len(grid.layers) / 24))
    axes.set_xticks(range(0, len(grid.layers), step), [str(n) for n in grid.layers[::step]], fontsize=8)
    axes.set_yticks(range(len(grid.roles)), grid.roles, fontsize=8)
    axes.set_ylabel(grid.component, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _norm(shade: Shade):
    from matplotlib.colors import LogNorm

    return LogNorm(shade.lowest, shade.highest) if shade.highest > 0 else LogNorm(0.1, 1)


def _frame(column: int, row: int, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=1.8, zorder=3)
