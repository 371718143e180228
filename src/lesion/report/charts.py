"""Where everything goes in the report's drawings. The templates draw them as SVG, whose colours follow the reader's theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lesion.core.collapse import Collapse
from lesion.core.curve import Curve
from lesion.core.metrics import METRICS

WIDTH, LEFT, RIGHT = 760, 58, 742
"""Of every drawing, in its own units; text is 12 of them high."""
PANEL, GAP, TOP = 168, 30, 22
TICK_ROOM = 30
LN10 = math.log(10)

Band = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One quantity against k, before it is drawn.

    Attributes:
        name: For the legend.
        style: CSS class, which gives colour, dashes and marker.
        ks: Where it was measured.
        values: One a k; None where it was not measured, infinite where it is not finite.
        band: Low and high of each; empty without.
    """

    name: str
    style: str
    ks: Sequence[int]
    values: Sequence[float | None]
    band: Band = field(default_factory=list)


@dataclass(frozen=True)
class Dot:
    """A measured value: where it goes, what it is in words, and whether it is not finite and hence at the upper edge."""

    x: float
    y: float
    says: str
    beyond: bool


@dataclass(frozen=True)
class Drawn:
    """A line as drawn; ``band`` holds the corners of a polygon."""

    name: str
    style: str
    dots: list[Dot]
    path: str
    band: str


@dataclass(frozen=True)
class Panel:
    """One of the drawings above each other that share the k axis."""

    title: str
    top: float
    bottom: float
    ticks: list[tuple[float, str]]
    lines: list[Drawn]
    levels: list[tuple[float, str]]


@dataclass(frozen=True)
class Span:
    """A shaded stage."""

    style: str
    x: float
    width: float


@dataclass(frozen=True)
class Chart:
    """Panels over one k axis.

    Attributes:
        height: Of the drawing.
        panels: From top to bottom.
        ticks: Of the k axis.
        spans: Shaded stages.
        k_star: Where k* is, and its name; None without.
        xs: Of each evaluated k, for the mark of the slider.
        undecided: Where the samples do not decide: x, and k in words.
    """

    height: float
    panels: list[Panel]
    ticks: list[tuple[float, str]]
    spans: list[Span]
    k_star: tuple[float, str] | None
    xs: list[float]
    undecided: list[tuple[float, str]]


class KScale:
    """From k to x: 0 for the intact model, then logarithmic from 1 on."""

    def __init__(self, largest: int) -> None:
        self._end = max(1 + math.log2(max(largest, 1)), 1.0)

    def __call__(self, k: int) -> float:
        at = 0.0 if k == 0 else 1 + math.log2(k)
        return round(LEFT + 8 + (RIGHT - LEFT - 20) * at / self._end, 1)

    def ticks(self, ks: Sequence[int], always: Sequence[int] = ()) -> list[tuple[float, str]]:
        """Those of ``always``, and of the powers of two as many as find room."""
        shown: list[int] = []
        for k in [*always, 0, *(k for k in ks if k & (k - 1) == 0), ks[-1]]:
            if k not in shown and all(abs(self(k) - self(other)) >= TICK_ROOM for other in shown):
                shown.append(k)
        return [(self(k), f"{k:,}") for k in sorted(shown)]


LINES = {"ppl_reference": "a", "ppl_generated": "b", "ppl_generated_intact": "c"}
"""Perplexity -> style of its line."""


def curve_chart(curve: Curve, collapse: Collapse) -> Chart:
    """The two-stage curve: three perplexities above, the CLIP score below."""
    scale, bands = KScale(curve.ks[-1]), curve.bands()
    lines = [
        Line(
            METRICS[name].label, style, curve.ks, decades(curve, name),
            [(low / LN10, high / LN10) for low, high in bands.nll] if name == "ppl_reference" else [],
        )
        for name, style in LINES.items()
    ]  # fmt: skip
    panels = [perplexity_panel(scale, TOP, lines)]
    scores = [p.metrics["clip_score"] for p in curve]
    if any(s is not None for s in scores):
        band = [] if bands.clip is None else [(float(a), float(b)) for a, b in bands.clip]
        chance = [] if curve.chance is None else [float(curve.chance.mean())]
        line = Line(METRICS["clip_score"].label, "d", curve.ks, scores, band)
        panels.append(score_panel(scale, TOP + PANEL + GAP, [line], chance))
    bottom, end = panels[-1].bottom, RIGHT
    spans: list[Span] = []
    if collapse.stage1_k is not None:
        start, stop = scale(collapse.stage1_k), end if collapse.k_star is None else scale(collapse.k_star)
        if start < stop:
            spans.append(Span("stage1", start, stop - start))
    star = None
    if collapse.k_star is not None:
        star = scale(collapse.k_star), f"k* = {collapse.k_star:,}"
        spans.append(Span("stage2", star[0], end - star[0]))
    always = [] if collapse.k_star is None else [collapse.k_star]
    undecided = [(scale(k), f"k = {k:,}") for k in collapse.undecided]
    return Chart(bottom + 44, panels, scale.ticks(curve.ks, always), spans, star, [scale(k) for k in curve.ks], undecided)


def overlay_chart(named: Sequence[tuple[str, Curve]]) -> Chart:
    """The curves of several studies in one drawing: perplexity of the intact answers, and CLIP score."""
    ks = sorted({k for _, curve in named for k in curve.ks})
    scale = KScale(ks[-1])
    styled = [(f"s{i % 6}", name, curve) for i, (name, curve) in enumerate(named)]
    panels = [perplexity_panel(scale, TOP, [Line(name, s, c.ks, decades(c, "ppl_reference")) for s, name, c in styled])]
    clip = [
        Line(name, style, curve.ks, [p.metrics["clip_score"] for p in curve])
        for style, name, curve in styled if any(p.clip is not None for p in curve)
    ]  # fmt: skip
    if clip:
        panels.append(score_panel(scale, TOP + PANEL + GAP, clip, []))
    return Chart(panels[-1].bottom + 44, panels, scale.ticks(ks), [], None, [], [])


def perplexity_panel(scale: KScale, top: float, lines: Sequence[Line]) -> Panel:
    """Lines in powers of ten; at least one of them is shown, so that noise does not look like a rise."""
    ends = [v for line in lines for v in (*line.values, *(e for pair in line.band for e in pair))]
    finite = [v for v in ends if v is not None and math.isfinite(v)] or [0.0]
    low, high = math.floor(min(finite)), max(math.ceil(max(finite)), math.floor(min(finite)) + 1)
    step = max(1, math.ceil((high - low) / 5))
    ticks = list(range(low, high + 1, step))
    height = _Height(top, low, max(high, ticks[-1]))
    drawn = [_draw(scale, height, top, line, lambda v: f"perplexity {show_decades(v)}") for line in lines]
    return Panel("Perplexity (log scale)", top, top + PANEL, [(height(t), power(t)) for t in ticks], drawn, [])


def score_panel(scale: KScale, top: float, lines: Sequence[Line], chance: Sequence[float]) -> Panel:
    """CLIP scores, always from 0 to 100."""
    height, metric = _Height(top, 0, 100), METRICS["clip_score"]
    drawn = [_draw(scale, height, top, line, lambda v: f"{metric.label} {metric.show(v)}") for line in lines]
    levels = [(height(c), f"chance {metric.show(c)}") for c in chance]
    return Panel(metric.label, top, top + PANEL, [(height(t), str(t)) for t in (0, 25, 50, 75, 100)], drawn, levels)


def decades(curve: Curve, name: str) -> list[float | None]:
    """A perplexity at every k as log10; infinite where it is not finite."""
    nll = [p.metrics[name.replace("ppl_", "nll_")] for p in curve]
    return [math.inf if v is None else v / LN10 for v in nll]


def show_decades(value: float) -> str:
    """A log10 perplexity as the perplexity that people read."""
    metric = METRICS["ppl_reference"]
    if not math.isfinite(value):
        return metric.show(None)
    return metric.show(10**value) if value < 300 else "above 1e300"


def power(decade: int) -> str:
    """A power of ten as people write it."""
    if 0 <= decade <= 4:
        return f"{10**decade:,}"
    return "10" + str(decade).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


class _Height:
    """From a value to y, within its panel."""

    def __init__(self, top: float, low: float, high: float) -> None:
        self.top, self.low, self.high = top, low, high

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.top + PANEL - (PANEL - 6) * float(np.clip(share, 0, 1)), 1)


def _draw(scale: KScale, height: _Height, top: float, line: Line, words: Callable[[float], str]) -> Drawn:
    dots: list[Dot] = []
    path, pen = [], "M"
    for k, value in zip(line.ks, line.values, strict=True):
        if value is None:
            pen = "M"
            continue
        beyond = not math.isfinite(value)
        y = top + 5 if beyond else height(value)
        dots.append(Dot(scale(k), y, f"k = {k:,}: {'not finite' if beyond else words(value)}", beyond))
        path.append(f"{pen}{scale(k)},{y}")
        pen = "L"
    corners: list[str] = []
    if line.band:
        ends = [(scale(k), *band) for k, band in zip(line.ks, line.band, strict=True) if all(map(math.isfinite, band))]
        corners = [f"{x},{height(high)}" for x, _, high in ends] + [f"{x},{height(low)}" for x, low, _ in reversed(ends)]
    return Drawn(line.name, line.style, dots, " ".join(path), " ".join(corners))
