"""What every figure of lesion shares: colours, style, files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.files import write_bytes
from lesion.report.words import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind and in grey.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
KINDS = ("svg", "png")
_CONTROLS = bytes(i for i in range(32) if i not in b"\t\n\r")
_DOLLAR = re.compile(r"(?<!\\)\$")
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

    _take_words_as_they_are(figure)
    data = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "lesion"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names may be in any script
        figure.savefig(data, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    # Names of ticks are set anew while they are drawn; XML cannot hold control characters.
    return data.getvalue().translate(None, _CONTROLS) if kind == "svg" else data.getvalue()


def _take_words_as_they_are(figure: Figure) -> None:
    """matplotlib takes what stands between two dollars for a formula; names and answers have dollars too, and no formulas."""
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    sides = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    logarithmic = [axis for axis in sides if isinstance(axis.get_major_formatter(), LogFormatter)]
    formulas = {id(label) for axis in logarithmic for label in axis.get_ticklabels(which="both")}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if id(text) in formulas:
            continue
        words = visible(text.get_text())
        if text.get_wrap():  # to break lines, matplotlib looks for formulas in any case
            words = _DOLLAR.sub(r"\\$", words)
        else:
            text.set_parse_math(False)
        text.set_text(words)


def number(value: float | None) -> float:
    """A value to plot; None becomes NaN, which draws nothing."""
    return np.nan if value is None else value
