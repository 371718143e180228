"""Figures: the two-stage curve, as SVG and PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lesion.collapse import Collapse
from lesion.curve import Curve
from lesion.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind and in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#7F7F7F"


def plot_curve(curve: Curve, collapse: Collapse, title: str = "") -> Figure:
    """Perplexity of the intact answers and CLIP score against k, stages shaded, chance level drawn.

    Args:
        curve: What was measured.
        collapse: What it says.
        title: Above the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    ks = np.array(curve.ks)
    points = [point.metrics for point in curve]
    decades = np.array([_number(p["nll_reference"]) for p in points]) / np.log(10)
    bands = curve.bands()
    low, high = bands.nll.T / np.log(10)
    sure = np.isfinite(high)
    axes.fill_between(ks[sure], low[sure], high[sure], color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(ks, decades, "o-", color=BLUE, label="perplexity of the intact answers (left)")
    for k, value in zip(ks, decades, strict=True):
        if not np.isfinite(value):
            axes.axvline(k, color=BLUE, linestyle=":", linewidth=1)
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xlim(0, max(ks[-1], 1) * 1.1)
    shown: list[int] = sorted({0, 1, collapse.k_star or 0, *(k for k in curve.ks if k & (k - 1) == 0)})
    axes.set_xticks(shown, [f"{k:,}" for k in shown], rotation=45 if len(shown) > 10 else 0)
    axes.set_xlabel("number of masked neurons, k")
    axes.set_ylabel("log10 perplexity", color=BLUE)
    end = ks[-1] * 1.1
    if collapse.stage1_k is not None:
        axes.axvspan(collapse.stage1_k, collapse.k_star or end, color=ORANGE, alpha=0.10, label="stage 1", linewidth=0)
    if collapse.k_star is not None:
        axes.axvspan(collapse.k_star, end, color=ORANGE, alpha=0.28, label="stage 2: collapse", linewidth=0)
    lines = axes.get_legend_handles_labels()
    scores = [p["clip_score"] for p in points]
    if all(s is not None for s in scores):
        right = axes.twinx()
        if bands.clip is not None:
            right.fill_between(ks, *bands.clip.T, color=ORANGE, alpha=0.2, linewidth=0)
        right.plot(ks, [_number(s) for s in scores], "s--", color=ORANGE, label="CLIP score (right)")
        right.set_ylabel("CLIP score", color=ORANGE)
        right.set_ylim(0, 100)
        if curve.chance is not None:
            right.axhline(float(curve.chance.mean()), color=GREY, linestyle="-.", label="CLIP score at chance (right)")
        more = right.get_legend_handles_labels()
        lines = (lines[0] + more[0], lines[1] + more[1])
    figure.legend(*lines, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def save_curve(curve: Curve, collapse: Collapse, folder: Path, title: str = "") -> None:
    """Writes ``curve.svg`` and ``curve.png`` into a folder, which is made if needed."""
    folder.mkdir(exist_ok=True)
    figure = plot_curve(curve, collapse, title)
    for kind in ("svg", "png"):
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
        write_bytes(folder / f"curve.{kind}", data.getvalue())


def _number(value: float | None) -> float:
    return np.nan if value is None else value
