"""What every figure of lesion shares: colours, style, files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind and in grey.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
KINDS = ("svg", "png")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.linewidth": 0.8, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "lines.linewidth": 1.6, "font.family": "DejaVu Sans",
}  # fmt: skip
"""Of every figure. The font comes with matplotlib, so that figures are the same on every machine."""


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.2, height_ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure of ``width`` by ``height`` inches that no window shows, and its axes, ``[rows, columns]``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios)


def outside_legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """One legend under the figure, with each label of the axes once."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Writes ``name.svg`` and ``name.png``, each whole or not at all, into a folder, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        write_bytes(folder / f"{name}.{kind}", encode(figure, kind))
        figure.set_layout_engine("none")  # what was laid out once stays, and laying out takes as long as drawing


def encode(figure: Figure, kind: str) -> bytes:
    """A figure as a file's bytes; the same figure gives the same ones."""
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "lesion"}):
        figure.savefig(data, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return data.getvalue()


def number(value: float | None) -> float:
    """A value to plot; None becomes NaN, which draws nothing."""
    return np.nan if value is None else value
