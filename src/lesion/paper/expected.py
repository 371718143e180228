"""Known coordinates: whether what was found is what papers name, and what masking the named neurons directly does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Role
from lesion.core.tables import Rows
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject
from lesion.study.check_known import KnownRow, mask_known
from lesion.study.published import ROLES, Known, names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class KnownNeuron:
    """One known neuron: its rank from 1 by CAN, and whether it is in the top k* and in the minimal set."""

    neuron: Neuron
    rank: int
    critical: bool
    cell: Cell


@dataclass(frozen=True)
class Expected(Part):
    """What the literature says is critical in this model or in its base, held against what was found.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        known: None where nothing is known of the model.
        places: Every known neuron of every role.
        masked: What masking the known neurons of a role directly does.
    """

    name = "known"
    title = "Known coordinates"
    model: str
    known: Known | None
    places: tuple[KnownNeuron, ...]
    masked: tuple[KnownRow, ...]

    def words(self) -> list[str]:
        if self.known is None:
            return ["Nothing has been published about single neurons of this model, as far as lesion knows; if it derives "
                    f"from one of these, name it with --expect: {', '.join(names())}."]  # fmt: skip
        lines = [f"Known of {self.known.name} ({self.known.source}):"]
        for role in dict.fromkeys(p.neuron.site.role for p in self.places):
            inside = [p for p in self.places if p.neuron.site.role == role]
            k_star = inside[0].cell.collapse.k_star
            ranks = f"their ranks by CAN are {', '.join(f'{p.rank:,}' for p in inside)} of {len(inside[0].cell.ranking):,}"
            if k_star is None:
                lines.append(f"{role}: no collapse was found, so there is no critical set; {ranks}.")
            else:
                held = sum(p.critical for p in inside)
                lines.append(f"{role}: the critical set of {k_star:,} contains {held} of {len(inside)}; {ranks}.")
        for row in self.masked:
            does = "collapses" if row.collapsed else "does not collapse"
            lines.append(f"Masking the {len(row.neurons)} known {row.role} neurons directly {does} the model.")
        return lines

    def table(self) -> Rows:
        return [
            {"known": self.known.name if self.known else None, "role": p.neuron.site.role, "layer": p.neuron.site.layer,
             "index": p.neuron.index, "rank": p.rank, "critical": p.critical, "k_star": p.cell.collapse.k_star,
             "curve": p.cell.name}
            for p in self.places
        ]  # fmt: skip

    def more_tables(self) -> dict[str, Rows]:
        """What masking them directly does."""
        rows: list[dict[str, Any]] = [
            {"role": r.role, "masked": len(r.neurons), "collapsed": r.collapsed, **r.metrics, "evaluation": r.evaluation}
            for r in self.masked
        ]
        return {"masked": rows}

    def plot(self) -> Figure:
        """Rank of every known neuron, beside k*."""
        from lesion.report.figures import BLUE, ORANGE, new_figure, outside_legend

        figure, axes = new_figure(width=6.4, height=0.24 * max(len(self.places), 3) + 1.4)
        place = axes[0, 0]
        for y, p in enumerate(self.places):
            place.plot(p.rank, y, "o", color=BLUE, label="rank of a known neuron")
            if p.cell.collapse.k_star is not None:
                place.plot(p.cell.collapse.k_star, y, "|", color=ORANGE, markersize=11, markeredgewidth=2, label="k*")
        if self.places:
            place.set_xscale("log")
            place.set_xlim(0.8, len(self.places[0].cell.ranking) * 1.2)
            place.set_yticks(range(len(self.places)), [str(p.neuron) for p in self.places], fontsize=8)
            place.invert_yaxis()
            outside_legend(figure, place)
        else:
            place.set_axis_off()
            place.text(0.5, 0.5, "nothing is known of this model", ha="center")
        place.set_xlabel("rank by CAN")
        figure.suptitle(f"{self.model}: known coordinates", fontsize=9)
        return figure


def expected(subject: Subject) -> Expected:
    """Looks the known neurons up in the rankings, and masks them.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    sets = {role: neurons for role in subject.roles("language") if (neurons := subject.known_neurons(role)) is not None}
    places = []
    for role, neurons in sets.items():
        cell = subject.place("language", role)
        for neuron in neurons:
            rank = cell.ranking.rank_of(neuron)
            if rank is not None:
                places.append(KnownNeuron(neuron, rank + 1, neuron in cell.critical, cell))
    chosen: dict[Role, NeuronSet] = {role: sets[role] for role in ROLES if role in sets}
    masked = mask_known(subject.measuring(), chosen) if chosen else []
    return Expected(subject.name, subject.truth, tuple(places), tuple(masked))
