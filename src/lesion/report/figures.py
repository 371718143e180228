"""Figures: the two-stage curve, and what every figure of lesion shares (colours, style, files)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.criterion import Collapse
from lesion.core.curve import Curve
from lesion.core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lesion.study.result import Result

# Okabe and Ito's palette: told apart by the colour-blind and in grey.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
KINDS = ("svg", "png")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.linewidth": 0.8, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "lines.linewidth": 1.6, "font.family": "DejaVu Sans",
}  # fmt: skip
"""Of every figure. The font comes with matplotlib, so that figures are the same on every machine."""
CURVE, MAP = "curve", "map"
"""Names of a study's figures."""


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.2, height_ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure of ``width`` by ``height`` inches that no window shows, and its axes, ``[rows, columns]``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios)


def plot_curve(curve: Curve, collapse: Collapse, title: str = "") -> Figure:
    """Perplexity of the intact answers and CLIP score against k, stages shaded, chance level drawn.

    Args:
        curve: What was measured.
        collapse: What it says.
        title: Above the figure.
    """
    figure, axes = new_figure()
    handles = draw_curve(axes[0, 0], curve, collapse)
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def draw_curve(axes: Axes, curve: Curve, collapse: Collapse) -> tuple[list[Any], list[str]]:
    """The same into given axes; returns the handles and labels of its legend."""
    import matplotlib

    ks = np.array(curve.ks)
    points = [point.metrics for point in curve]
    decades = np.array([number(p["nll_reference"]) for p in points]) / np.log(10)
    bands = curve.bands()
    low, high = bands.nll.T / np.log(10)
    sure = np.isfinite(high)
    axes.fill_between(ks[sure], low[sure], high[sure], color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(ks, decades, "o-", color=BLUE, markersize=4, label="perplexity of the intact answers (left)")
    for k, value in zip(ks, decades, strict=True):
        if not np.isfinite(value):
            axes.axvline(k, color=BLUE, linestyle=":", linewidth=1)
    k_axis(axes, curve, collapse)
    axes.set_ylabel("log10 perplexity", color=BLUE)
    end = ks[-1] * 1.1
    if collapse.stage1_k is not None:
        axes.axvspan(collapse.stage1_k, collapse.k_star or end, color=ORANGE, alpha=0.10, label="stage 1", linewidth=0)
    if collapse.k_star is not None:
        axes.axvspan(collapse.k_star, end, color=ORANGE, alpha=0.28, label="stage 2: collapse", linewidth=0)
    handles, labels = axes.get_legend_handles_labels()
    scores = [p["clip_score"] for p in points]
    if all(s is not None for s in scores):
        with matplotlib.rc_context(STYLE):
            right = axes.twinx()
        if bands.clip is not None:
            right.fill_between(ks, *bands.clip.T, color=ORANGE, alpha=0.2, linewidth=0)
        right.plot(ks, [number(s) for s in scores], "s--", color=ORANGE, markersize=4, label="CLIP score (right)")
        right.set_ylabel("CLIP score", color=ORANGE)
        right.set_ylim(0, 100)
        if curve.chance is not None:
            right.axhline(float(curve.chance.mean()), color=GREY, linestyle="-.", label="CLIP score at chance (right)")
        more = right.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    return handles, labels


def k_axis(axes: Axes, curve: Curve, collapse: Collapse) -> None:
    """The x axis of a curve: base 2 from 1 on, with 0 for the intact model, ticks that do not run into each other."""
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xlim(0, max(curve.ks[-1], 1) * 1.1)
    shown: list[int] = sorted({0, 1, *(k for k in curve.ks if k & (k - 1) == 0)})
    k_star = collapse.k_star
    if k_star is not None:
        shown = sorted([k for k in shown if not k_star / 1.5 < k < k_star * 1.5] + [k_star])
    axes.set_xticks(shown, [f"{k:,}" for k in shown], rotation=45 if len(shown) > 8 else 0)
    axes.set_xlabel("number of masked neurons, k")


def outside_legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """One legend under the figure, with each label of the axes once."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def save_figures(result: Result, folder: Path) -> None:
    """Writes a study's figures, ``curve`` and ``map``, into a folder; made from nothing but its result."""
    save_figure(result.plot(), folder, CURVE)
    save_figure(result.plot_places(), folder, MAP)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Writes ``name.svg`` and ``name.png``, each whole or not at all, into a folder, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        write_bytes(folder / f"{name}.{kind}", encode(figure, kind))


def encode(figure: Figure, kind: str) -> bytes:
    """A figure as a file's bytes; the same figure gives the same ones."""
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "lesion"}):
        figure.savefig(data, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return data.getvalue()


def number(value: float | None) -> float:
    """For plotting: None is not a number."""
    return np.nan if value is None else value
