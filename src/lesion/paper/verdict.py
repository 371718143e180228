"""The verdict on a model: a critical handful, or none, in words; no k* is forced on a model that has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.tables import Rows
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject
from lesion.study.conclusion import entry
from lesion.study.result import HANDFUL, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Verdict(Part):
    """One line a role of the language model.

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        cells: Role -> curve.
        notes: What a reader should know before believing it.
    """

    name = "verdict"
    title = "Handful or none"
    model: str
    cells: dict[str, Cell]
    notes: tuple[str, ...]

    @property
    def handful(self) -> list[str]:
        """The roles that have a critical handful."""
        stars = {role: cell.collapse.k_star for role, cell in self.cells.items()}
        return [role for role, k in stars.items() if k is not None and k <= HANDFUL]

    def words(self) -> list[str]:
        if self.handful:
            first = f"{self.model} has a critical handful in the language model: {', '.join(self.handful)}."
        else:
            first = f"{self.model} has no critical handful in any role of the language model."
        return [first, *(self._of(role) for role in self.cells), *(f"Note: {line}." for line in self.notes)]

    def table(self) -> Rows:
        rows: list[dict[str, Any]] = []
        for role, cell in self.cells.items():
            rows.append({"role": role, "handful": role in self.handful, **cell.row(), "verdict": self._of(role),
                         "curve": cell.name})  # fmt: skip
        return rows

    def plot(self) -> Figure:
        """k* of every role beside what counts as a handful."""
        from lesion.report.figures import BLUE, GREY, ORANGE, new_figure

        figure, axes = new_figure(height=0.4 * len(self.cells) + 1.2)
        place = axes[0, 0]
        for y, cell in enumerate(self.cells.values()):
            found = cell.collapse
            if found.k_star is None:
                place.plot(found.largest_k, y, ">", color=GREY, markerfacecolor="none")
            else:
                place.plot(found.k_star, y, "o", color=ORANGE if found.k_star <= HANDFUL else BLUE)
        place.axvspan(0.5, HANDFUL, color=ORANGE, alpha=0.12, linewidth=0)
        place.annotate("a handful", (0.6, -0.42), fontsize=8)
        place.set_xscale("log")
        place.set_xlim(0.5, max(len(cell.ranking) for cell in self.cells.values()) * 1.2)
        place.set_ylim(len(self.cells) - 0.5, -0.6)
        place.set_yticks(range(len(self.cells)), list(self.cells), fontsize=8)
        place.set_xlabel("k* (open triangle: none up to here)")
        figure.suptitle(f"{self.model}: k* of the language model", fontsize=9)
        return figure

    def _of(self, role: str) -> str:
        cell = self.cells[role]
        found = cell.collapse
        critical = [entry(neuron) for neuron in cell.critical] if (found.k_star or 0) <= HANDFUL else []
        return verdict(self.model, found.k_star, len(cell.ranking), found.largest_k, "language", role, [], critical)


def judge(subject: Subject) -> Verdict:
    """Says of each role whether it has a critical handful.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    cells = {role: subject.place("language", role) for role in subject.roles("language")}
    return Verdict(subject.name, cells, tuple(subject.bench.notes))
