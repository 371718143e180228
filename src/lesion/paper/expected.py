"""Known coordinates: whether the critical neurons are those that papers name, and what masking the named ones directly does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.criterion import Decision
from lesion.core.evaluation import Evaluation
from lesion.core.neurons import Neuron
from lesion.core.tables import Rows
from lesion.paper.cell import EFFECT, Cell
from lesion.paper.part import Part, of_metrics
from lesion.paper.subject import Subject
from lesion.study.published import ROLES, Known, names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CoordinateRank:
    """One known neuron: its rank from 1 by CAN, and whether it is in the top k*."""

    neuron: Neuron
    rank: int
    critical: bool
    cell: Cell


@dataclass(frozen=True)
class DirectMask:
    """What masking a role's known neurons does, without any ranking."""

    role: str
    neurons: int
    decision: Decision
    point: Evaluation


@dataclass(frozen=True)
class Expected(Part):
    """What the literature says is critical in this model or in its base, beside what was measured.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        known: None where nothing is known of the model.
        ranks: Every known neuron of every role.
        masked: What masking the known neurons of a role directly does.
    """

    name = "known"
    title = "Known coordinates"
    model: str
    known: Known | None
    ranks: tuple[CoordinateRank, ...]
    masked: tuple[DirectMask, ...]

    def words(self) -> list[str]:
        if self.known is None:
            return ["Nothing has been published about single neurons of this model, as far as lesion knows; if it derives "
                    f"from one of these, name it with --expect: {', '.join(names())}."]  # fmt: skip
        lines = [f"Known of {self.known.name} ({self.known.source}):"]
        for role in dict.fromkeys(r.neuron.site.role for r in self.ranks):
            inside = [r for r in self.ranks if r.neuron.site.role == role]
            cell = inside[0].cell
            ranks = f"their ranks by CAN are {', '.join(f'{r.rank:,}' for r in inside)} of {len(cell.ranking):,}"
            if cell.k_star is None:
                lines.append(f"{role}: {cell.clause()}, so there is no critical set; {ranks}.")
            else:
                held = sum(r.critical for r in inside)
                lines.append(f"{role}: the critical set of {cell.k_star:,} contains {held} of {len(inside)}; {ranks}.")
        for mask in self.masked:
            lines.append(f"Masking the {mask.neurons} known {mask.role} neurons directly {EFFECT[mask.decision]}.")
        return lines

    def table(self) -> Rows:
        return [
            {"known": self.known.name if self.known else None, "role": r.neuron.site.role, "layer": r.neuron.site.layer,
             "index": r.neuron.index, "rank": r.rank, "critical": r.critical, "k_star": r.cell.k_star, "curve": r.cell.name}
            for r in self.ranks
        ]  # fmt: skip

    def more_tables(self) -> dict[str, Rows]:
        """What masking them directly does."""
        rows: list[dict[str, Any]] = [
            {"role": m.role, "masked": m.neurons, "decision": m.decision,
             **of_metrics(m.point.metrics, "ppl_reference", "nll_reference", "clip_score", "exact_match", "kl"),
             "evaluation": m.point.key}
            for m in self.masked
        ]  # fmt: skip
        return {"masked": rows}

    def plot(self) -> Figure:
        """Rank of every known neuron, beside k*."""
        from lesion.report.figures import BLUE, ORANGE, new_figure, outside_legend

        figure, axes = new_figure(width=6.4, height=0.24 * max(len(self.ranks), 3) + 1.4)
        panel = axes[0, 0]
        for y, r in enumerate(self.ranks):
            panel.plot(r.rank, y, "o", color=BLUE, label="rank of a known neuron")
            if r.cell.k_star is not None:
                panel.plot(r.cell.k_star, y, "|", color=ORANGE, markersize=11, markeredgewidth=2, label="k*")
        if self.ranks:
            panel.set_xscale("log")
            panel.set_xlim(0.8, max(len(r.cell.ranking) for r in self.ranks) * 1.2)
            panel.set_yticks(range(len(self.ranks)), [str(r.neuron) for r in self.ranks], fontsize=8)
            panel.invert_yaxis()
            outside_legend(figure, panel)
        else:
            panel.set_axis_off()
            panel.text(0.5, 0.5, "nothing is known of this model", ha="center")
        panel.set_xlabel("rank by CAN")
        figure.suptitle(f"{self.model}: known coordinates", fontsize=9)
        return figure


def expected(subject: Subject) -> Expected:
    """Looks the known neurons up in the rankings, and masks them.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    sets = {r: neurons for r in subject.language_roles() if (neurons := subject.known_neurons(r)) is not None}
    ranks = []
    for role, neurons in sets.items():
        cell = subject.cell("language", role)
        for neuron in neurons:
            rank = cell.ranking.rank_of(neuron)
            if rank is not None:
                ranks.append(CoordinateRank(neuron, rank + 1, neuron in cell.critical, cell))
    roles = [role for role in ROLES if role in sets]
    masked = []
    if roles:
        ablation = subject.ablation()
        points = ablation.many([sets[role] for role in roles])
        masked = [DirectMask(r, len(sets[r]), ablation.decide(p), p) for r, p in zip(roles, points, strict=True)]
    return Expected(subject.name, subject.truth, tuple(ranks), tuple(masked))
