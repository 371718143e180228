"""The method against others: k* by every way to rank the same neurons on the same images, and what each costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lesion.ablation.minimal import Minimal
from lesion.core.tables import Rows
from lesion.paper.cell import Cell
from lesion.paper.part import Part
from lesion.paper.subject import Subject
from lesion.scoring.options import ScoreOptions
from lesion.scoring.scorers import get_scorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Passes = tuple[int, int]
"""Forward and backward passes a sample."""


@dataclass(frozen=True)
class Method:
    """One way to rank.

    Attributes:
        group: What is varied: alpha, aggregate, positions or scorer.
        label: Its value, for people.
        passes: What its ranking takes by itself; lesion computes all scorers of one set of options together.
        cell: Its curve.
        minimal: The minimal set within its top k*; None without a collapse, or with too large a k* to try.
        expected: How many of the known neurons (:mod:`lesion.study.published`) its top k* has, and how many there are; None
            where nothing is known.
    """

    group: str
    label: str
    passes: Passes
    cell: Cell
    minimal: Minimal | None
    expected: tuple[int, int] | None

    @property
    def masks(self) -> int:
        """How many masks were measured for k* and for the minimal set."""
        return len(self.cell.curve) + (self.minimal.tried if self.minimal else 0)


@dataclass(frozen=True)
class Methods(Part):
    """What the paper leaves open about CAN, and what it does not compare with, side by side.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        role: Of the language model, whose neurons are ranked.
        methods: Every way to rank them.
    """

    name = "methods"
    title = "The method against others"
    model: str
    role: str
    methods: tuple[Method, ...]

    @property
    def best(self) -> Method | None:
        """The smallest verified set; among equals the smaller k*, then fewer passes."""
        verified = [m for m in self.methods if m.minimal is not None and m.minimal.verified]

        def cost(method: Method) -> tuple[int, int, int]:
            size = len(method.minimal.neurons) if method.minimal else 0
            return size, method.cell.k_star or 0, sum(method.passes)

        return min(verified, key=cost, default=None)

    def words(self) -> list[str]:
        stars = [m.cell.k_star for m in self.methods if m.cell.k_star is not None]
        if not stars:
            return [f"No ranking has a k*: {'; '.join(f'{m.label} {m.cell.star()}' for m in self.methods)}."]
        first = "; ".join(m.label for m in self.methods if m.cell.k_star == min(stars))
        lines = [f"The smallest k*, {min(stars):,}, is reached by: {first}."]
        undecided = [m.label for m in self.methods if m.cell.collapse.undecided]
        if undecided:
            lines.append(f"The samples do not decide every k that was tried of: {'; '.join(undecided)} (see the table).")
        best = self.best
        if best is not None and best.minimal is not None:
            size = len(best.minimal.neurons)
            equals = [m.label for m in self.methods if m.minimal and m.minimal.verified and len(m.minimal.neurons) == size]
            lines.append(
                f"The smallest verified set has {size:,} neurons ({'; '.join(equals)}); cheapest of these with the "
                f"smallest k*: {best.label}, {best.passes[0]} forward and {best.passes[1]} backward passes a sample to "
                f"rank, {best.masks:,} masks to find k* and to verify."
            )
        else:
            lines.append("No ranking's k* is small enough for a minimal set to be verified neuron by neuron.")
        random = [m for m in self.methods if m.cell.key.scorer == "random"]
        return lines + [f"In a random order: {m.cell.clause()}." for m in random]

    def table(self) -> Rows:
        rows: list[dict[str, Any]] = []
        for m in self.methods:
            known, total = m.expected or (None, None)
            rows.append({
                "varied": m.group, "method": m.label, **m.cell.row(),
                "minimal": len(m.minimal.neurons) if m.minimal else None,
                "verified": m.minimal.verified if m.minimal else None,
                "known_in_top_k_star": known, "known": total, "forward": m.passes[0], "backward": m.passes[1],
                "masks": m.masks, "curve": m.cell.name,
            })  # fmt: skip
        return rows

    def plot(self) -> Figure:
        """k* of every method, with its interval, and the size of the verified minimal set."""
        from lesion.paper.drawing import draw_star
        from lesion.report.figures import BLUE, new_figure, outside_legend

        figure, axes = new_figure(width=7.0, height=0.24 * len(self.methods) + 1.6)
        panel = axes[0, 0]
        for y, m in enumerate(self.methods):
            draw_star(panel, m.cell, y)
            if m.minimal is not None and m.minimal.verified:
                panel.plot(len(m.minimal.neurons), y, "|", color=BLUE, markersize=11, markeredgewidth=2,
                           label="verified minimal set")  # fmt: skip
        panel.set_xscale("log")
        panel.set_yticks(range(len(self.methods)), [m.label for m in self.methods], fontsize=8)
        panel.invert_yaxis()
        panel.set_xlabel("number of neurons")
        panel.grid(axis="x", alpha=0.3)
        outside_legend(figure, panel)
        figure.suptitle(f"{self.model}: language {self.role}, by ranking", fontsize=9)
        return figure


def methods(subject: Subject) -> Methods:
    """k* and minimal set by every alpha, aggregation, choice of positions and scorer of the plan.

    Args:
        subject: The model; the images are the same for all.
    """
    plan, usual = subject.plan, subject.session.options.scoring()
    ways: list[tuple[str, str, str, ScoreOptions]] = [
        *(("alpha", f"can, alpha {a:g}", "can", replace(usual, alpha=a)) for a in plan.alphas),
        *(("aggregate", f"can, {a} over tokens", "can", replace(usual, aggregate=a)) for a in plan.aggregates),
        *(("positions", f"can, {p} tokens", "can", replace(usual, positions=p)) for p in plan.position_sets),
        *(("scorer", s, s, usual) for s in plan.scorers),
    ]
    return Methods(subject.name, plan.role, tuple(_method(subject, *way) for way in ways))


def _method(subject: Subject, group: str, label: str, scorer: str, options: ScoreOptions) -> Method:
    role = subject.plan.role
    usual = scorer == "can" and options == subject.session.options.scoring()
    name = f"language {role}" if usual else f"language {role}, {label}"
    cell = subject.cell("language", role, name, scorer=scorer, options=options)
    minimal = None
    if cell.k_star is not None and cell.k_star <= subject.session.options.minimal_limit:
        minimal = subject.ablation().minimal(cell.ranking, cell.k_star)
    truth = subject.known_neurons(role)
    expected = None if truth is None else (len(truth & cell.critical), len(truth))
    return Method(group, label, get_scorer(scorer).passes(options), cell, minimal, expected)
