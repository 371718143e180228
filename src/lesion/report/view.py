"""What the report says of one study, put together from its result alone; the templates only lay it out."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lesion.core.collapse import Collapse
from lesion.core.curve import Curve
from lesion.core.metrics import METRICS, headline
from lesion.core.modes import MEANINGS
from lesion.core.outcome import MODES, SampleOutcome
from lesion.core.tables import show
from lesion.report.assumed import Assumption, assumptions
from lesion.report.charts import Chart, curve_chart
from lesion.report.controls import Kind, Strip, kinds, strip
from lesion.report.criteria import CriterionRow, criterion_rows, in_words, left_out
from lesion.report.more import More
from lesion.report.places import Grid, Map, Shade, draw_maps, grids
from lesion.report.words import Piece, changes, visible
from lesion.study import rundir
from lesion.study.result import Result, SampleEntry

LONG = 600
"""Answers of more characters are folded."""
JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Card:
    """One sample's answers.

    Attributes:
        sample: The image, its prompt and its category.
        picture: Data URI of its image; None where it has none.
        intact: The intact answer.
        end: The answer at the end (k*, or the largest k), in pieces.
        mode: What became of it there.
        long: How many characters its longest answer has, where it is folded; otherwise 0.
    """

    sample: SampleEntry
    picture: str | None
    intact: str
    end: list[Piece]
    mode: str
    long: int


class View:
    """One study.

    Args:
        result: Its answer.
        folder: Where its pictures are.
        id: Of its part of the page.
    """

    def __init__(self, result: Result, folder: Path, id: str) -> None:
        self.result, self.folder, self.id = result, folder, id
        self.modes, self.meanings = MODES, MEANINGS

    @cached_property
    def curve(self) -> Curve:
        return self.result.read_curve()

    @cached_property
    def collapse(self) -> Collapse:
        return self.result.collapse

    @property
    def name(self) -> str:
        """What was studied, in a few words."""
        parts = [self.result.model, self.result.component, self.result.role, self.category or ""]
        return " · ".join(p for p in parts if p and p != "all")

    @property
    def category(self) -> str | None:
        return self.result.options.get("category")

    # -- the answer --------------------------------------------------------------------------------------------------
    @property
    def end(self) -> int:
        """The k to look at: k*, or the largest."""
        return self.result.largest_k if self.result.k_star is None else self.result.k_star

    @property
    def end_name(self) -> str:
        return f"k = {self.end:,}" if self.result.k_star is None else f"k* = {self.end:,}"

    def metrics_at(self, k: int) -> dict[str, float | None]:
        return next(p.metrics for p in self.result.curve if p.k == k)

    def before_after(self) -> list[tuple[str, str, str, str]]:
        """The headline metrics: label, intact, at the end, by chance."""
        before, after, chance = self.result.baseline, self.metrics_at(self.end), self.result.chance
        return [
            (m.label, m.show(before[m.name]), m.show(after.get(m.name)), m.show(chance.get(m.name), missing=""))
            for m in headline(before)
        ]

    @property
    def notes(self) -> list[str]:
        """The notes, without those that only repeat a complaint, which stands beside the verdict."""
        return [n for n in self.result.notes if not any(n.endswith(complaint) for complaint in self.result.complaints)]

    @property
    def shown(self) -> Card | None:
        """The sample that the answer is shown on: of those that end in the commonest mode, the first with a picture."""
        modes = [card.mode for card in self.cards]
        common = max(modes, key=modes.count)
        same = [card for card in self.cards if card.mode == common]
        return next((card for card in same if card.picture), same[0])

    # -- the curve ---------------------------------------------------------------------------------------------------
    @cached_property
    def chart(self) -> Chart:
        return curve_chart(self.curve, self.collapse)

    def stage(self, k: int) -> str:
        """What holds at an evaluated k, in a few words."""
        collapse = self.collapse
        if k == 0:
            return "intact"
        if k in collapse.collapsed:
            return "collapsed"
        if k in collapse.undecided:
            return "undecided"
        if collapse.k_star is not None and k > collapse.k_star:
            return "above k*, standing again"
        if not collapse.enough_samples:
            return "standing"
        degraded = collapse.stage1_k is not None and k >= collapse.stage1_k
        return "stage 1: degraded" if degraded else "no change beyond noise"

    @property
    def measured(self) -> list[str]:
        """Names of the metrics that the table of the curve has: all that were measured somewhere, and the CLIP score."""
        points = [p.metrics for p in self.result.curve]
        return [
            name for name, m in METRICS.items()
            if m.format != "nats" and (m.headline or any(p.get(name) is not None for p in points))
        ]  # fmt: skip

    def curve_rows(self) -> list[dict[str, Any]]:
        """The curve as a table."""
        rows = []
        for p in self.result.curve:
            modes = ", ".join(f"{100 * share:.0f} % {mode}" for mode, share in p.modes.items() if share)
            values = {METRICS[name].label: METRICS[name].show(p.metrics.get(name)) for name in self.measured}
            rows.append({"k": p.k, "stage": self.stage(p.k), **values, "modes": modes})
        return rows

    @property
    def numeric(self) -> list[str]:
        """Columns of that table whose cells are numbers."""
        return [METRICS[name].label for name in self.measured]

    # -- the criterion -----------------------------------------------------------------------------------------------
    @property
    def criterion(self) -> str:
        """What counts as collapsed, in words."""
        return in_words(self.result.criterion)

    @property
    def left_out(self) -> list[str]:
        """Which of its conditions decide nothing, and why."""
        return left_out(self.result.left_out)

    @property
    def undecided(self) -> str:
        """Where the samples do not decide, and how many would; empty where they do everywhere."""
        ks = self.collapse.undecided
        if not ks:
            return ""
        count = self.collapse.samples
        samples = "The one measured sample does" if count == 1 else f"The {count:,} measured samples do"
        need = self.collapse.samples_needed
        more = f" About {need:,} would decide the first of these." if need else ""
        listed = [f"{k:,}" for k in ks]
        where = f"k = {' and '.join(listed)}" if len(listed) < 3 else f"{len(listed)} values of k, the smallest {listed[0]}"
        return f"{samples} not decide at {where}.{more}"

    def criteria(self) -> list[CriterionRow]:
        """The k* of each criterion."""
        return criterion_rows(self.result)

    # -- answers -----------------------------------------------------------------------------------------------------
    @cached_property
    def cards(self) -> list[Card]:
        about = {s.id: s for s in self.result.sample_list}
        at = self.curve.ks.index(self.end)
        cards = []
        for i, intact in enumerate(self.curve.intact.outcomes):
            longest = max(len(p.outcomes[i].answer) for p in self.curve)
            end = self.curve.points[at].outcomes[i]
            sample = about.get(intact.id) or SampleEntry(
                id=intact.id, category=None, reference=None, prompt="", ranked_on=False, measured_on=True, picture=None
            )
            cards.append(Card(
                sample, picture(self.folder, sample.picture), intact.answer, self._pieces(intact, end), end.mode,
                longest if longest > LONG else 0,
            ))  # fmt: skip
        return cards

    def _pieces(self, intact: SampleOutcome, masked: SampleOutcome) -> list[Piece]:
        return [(kind, visible(text)) for kind, text in changes(intact.answer, masked.answer)]

    @property
    def categories(self) -> list[str]:
        return sorted({c.sample.category for c in self.cards if c.sample.category is not None})

    @property
    def prompts(self) -> list[str]:
        return list(dict.fromkeys(c.sample.prompt for c in self.cards))

    def payload(self) -> dict[str, Any]:
        """What the slider shows: every answer at every k. Answers that repeat are kept once."""
        texts: dict[tuple[Piece, ...], int] = {}
        cards = []
        for i, intact in enumerate(self.curve.intact.outcomes):
            row = []
            for point in self.curve:
                masked = point.outcomes[i]
                pieces = texts.setdefault(tuple(self._pieces(intact, masked)), len(texts))
                row.append([pieces, MODES.index(masked.mode), METRICS["clip_score"].show(masked.clip, missing="")])
            cards.append(row)
        total = self.result.neurons_total
        return {
            "ks": self.curve.ks, "start": self.curve.ks.index(self.end), "modes": MODES, "long": LONG,
            "stages": [self.stage(k) for k in self.curve.ks], "total": f"{total:,}", "xs": self.chart.xs,
            "names": [f"{k:,}" for k in self.curve.ks], "clip": METRICS["clip_score"].label, "categories": self.categories,
            "texts": [[list(piece) for piece in pieces] for pieces in texts], "cards": cards,
        }  # fmt: skip

    def columns(self) -> list[dict[str, Any]]:
        """The strip above the slider, one column a k: where each mode begins and its height, of 100; and whether k is named."""
        columns = []
        for i, p in enumerate(self.result.curve):
            top, parts = 0.0, []
            for mode, share in p.modes.items():
                if share:
                    parts.append((mode, round(top, 2), round(100 * share, 2)))
                    top += 100 * share
            key = p.k in (0, self.collapse.stage1_k, self.collapse.k_star, self.curve.ks[-1])
            columns.append({"x": i, "k": p.k, "parts": parts, "key": key})
        return columns

    def jumps(self) -> list[tuple[str, int]]:
        """Buttons: their names, and the positions they go to."""
        ks = self.curve.ks
        wanted = [("intact", 0), ("stage 1", self.collapse.stage1_k), ("k*", self.collapse.k_star), ("last", ks[-1])]
        return [(name, ks.index(k)) for name, k in wanted if k is not None]

    # -- where -------------------------------------------------------------------------------------------------------
    @cached_property
    def grids(self) -> list[Grid]:
        return grids(self.result.places)

    @property
    def maps(self) -> list[Map]:
        return draw_maps(self.grids)

    @property
    def shade(self) -> Shade:
        return Shade(self.grids)

    @property
    def has_experts(self) -> bool:
        return any(n.expert is not None for n in self.result.top)

    # -- evidence ----------------------------------------------------------------------------------------------------
    def kinds(self) -> list[Kind]:
        """The controls by kind."""
        return kinds(self.result)

    @property
    def has_undecided_controls(self) -> bool:
        return any(kind.group.undecided for kind in self.kinds())

    def strip(self) -> Strip | None:
        """The controls' perplexities beside the critical set's; None without controls."""
        return strip(self.result) if self.result.controls else None

    # -- what the ranking does not see -------------------------------------------------------------------------------
    def alone(self) -> tuple[str, str, list[tuple[str, str, str]]] | None:
        """The first neuron by activation: its place in the ranking, what masking it alone does, and the headline metrics.

        Each metric has its label, its intact value and the one with the neuron masked. None where it was not masked alone.
        """
        alone = None if self.result.blind is None else self.result.blind.alone
        if alone is None:
            return None
        rank = "is not in it" if alone.rank is None else f"is number {alone.rank:,} of {self.result.neurons_total:,}"
        does = {
            True: "That collapses the model.", False: "The model does not collapse.",
            None: "The samples do not tell whether the model has collapsed.",
        }[alone.collapsed]  # fmt: skip
        shown = [
            (m.label, m.show(alone.before[m.name]), m.show(alone.after.get(m.name)))
            for m in headline(alone.before)
        ]  # fmt: skip
        return rank, does, shown

    def first_order(self) -> list[tuple[str, str, str, str]]:
        """Each set, what the gradient promises of the NLL, what was measured, and how many times as much that is."""
        nll, rows = METRICS["nll_reference"], []
        for order in () if self.result.blind is None else self.result.blind.first_order:
            times = "–" if order.measured is None or order.promised <= 0 else f"{order.measured / order.promised:,.3g}"
            rows.append((order.name, nll.show(order.promised), nll.show(order.measured), times))
        return rows

    # -- the measured search, why, and the same elsewhere ------------------------------------------------------------
    @cached_property
    def more(self) -> More:
        """What stands behind the study's own stages."""
        return More.of(self.result, self.folder)

    def assumptions(self) -> list[Assumption]:
        return assumptions(self.result.options)

    def conditions(self) -> list[tuple[str, str]]:
        """Versions and so on, flat."""
        return list(_flat(self.result.conditions))


def _flat(value: Any, name: str = "") -> Sequence[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{name} {key}".strip())]
    return [] if value is None else [(name, show(value))]


def picture(folder: Path, name: str | None) -> str | None:
    """A picture of the run directory as a data URI; None where there is none.

    ``result.json`` may come from anyone: nothing outside ``pictures/`` is read, and nothing that is no JPEG.
    """
    if name is None:
        return None
    try:
        inside = (folder / rundir.PICTURES).resolve()
        file = (folder / name).resolve()
        data = file.read_bytes() if file.parent == inside else b""
    except (OSError, ValueError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data.startswith(JPEG) else None
