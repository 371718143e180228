"""The verdict on a model: a critical handful, or none, in words; no k* is forced on a model that has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lesion.core.metrics import METRICS
from lesion.core.tables import Rows
from lesion.paper.cell import Cell
from lesion.paper.luck import ControlCount
from lesion.paper.part import Part
from lesion.paper.subject import Subject
from lesion.study.health import complaints, near_copies
from lesion.study.verdict import HANDFUL, HANDFUL_SHARE, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Answer = Literal["yes", "no", "open"]


@dataclass(frozen=True)
class Verdicts(Part):
    """One verdict a role of the language model, by the rule that a study goes by (:mod:`lesion.study.verdict`).

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        cells: Role -> curve.
        verdicts: Role -> what is concluded from it and from the random controls.
        complaints: Why the intact model does not work on this data.
        notes: What a reader should know before believing it.
    """

    name = "verdict"
    title = "Handful or none"
    model: str
    cells: dict[str, Cell]
    verdicts: dict[str, Verdict]
    complaints: tuple[str, ...]
    notes: tuple[str, ...]

    def answers(self) -> dict[str, Answer]:
        """Role -> whether it has a critical handful, or whether that stays open."""
        return {role: _answer(verdict) for role, verdict in self.verdicts.items()}

    def words(self) -> list[str]:
        lines = (str(verdict) for verdict in self.verdicts.values())
        return [self._first(), *(f"{role}: {line}" for role, line in zip(self.verdicts, lines, strict=True)),
                *(f"Note: {line}." for line in self.notes)]  # fmt: skip

    def _first(self) -> str:
        answers = self.answers()
        yes, unsure = ([role for role, answer in answers.items() if answer == which] for which in ("yes", "open"))
        if self.complaints:
            return f"No verdict on {self.model}: even intact it does not work on this data ({'; '.join(self.complaints)})."
        if yes:
            rest = f"; open for {', '.join(unsure)}" if unsure else ""
            return f"{self.model} has a critical handful in the language model: {', '.join(yes)}{rest}."
        if unsure:
            return f"Whether {self.model} has a critical handful in the language model is open for: {', '.join(unsure)}."
        return f"{self.model} has no critical handful in any role of the language model."

    def table(self) -> Rows:
        rows: list[dict[str, Any]] = []
        for (role, cell), answer in zip(self.cells.items(), self.answers().values(), strict=True):
            verdict = self.verdicts[role]
            drawn, fallen = verdict.random
            rows.append({
                "role": role, "handful": answer, **cell.row(), "random_sets": drawn, "random_collapsed": fallen,
                "verdict": str(verdict), "curve": cell.name,
            })  # fmt: skip
        return rows

    def plot(self) -> Figure:
        """k* of every role beside what counts as a handful."""
        from lesion.paper.drawing import draw_star
        from lesion.report.figures import BLUE, ORANGE, new_figure, outside_legend

        figure, axes = new_figure(height=0.4 * len(self.cells) + 1.6)
        panel = axes[0, 0]
        for y, (role, cell) in enumerate(self.cells.items()):
            few = max(min(HANDFUL, HANDFUL_SHARE * len(cell.ranking)), 0.5)
            panel.barh(y, few - 0.5, left=0.5, color=ORANGE, alpha=0.12, linewidth=0, label="few enough for a handful")
            draw_star(panel, cell, y, colour=ORANGE if self.verdicts[role].is_handful else BLUE)
        panel.set_xscale("log")
        panel.set_xlim(0.5, max(len(cell.ranking) for cell in self.cells.values()) * 1.2)
        panel.set_ylim(len(self.cells) - 0.5, -0.6)
        panel.set_yticks(range(len(self.cells)), list(self.cells), fontsize=8)
        panel.set_xlabel("k*")
        outside_legend(figure, panel)
        figure.suptitle(f"{self.model}: k* of the language model", fontsize=9)
        return figure


def judge(subject: Subject) -> Verdicts:
    """Says of each role whether it has a critical handful.

    Args:
        subject: The model; the curves and the controls are shared with other parts.
    """
    cells = {role: subject.cell("language", role) for role in subject.language_roles()}
    first = next(iter(cells.values()))
    wrong = tuple(complaints(first.curve, subject.measured))
    verdicts = {
        role: Verdict(
            subject.name, "language", role, len(cell.ranking), cell.collapse,
            [(n.site.component, n.site.layer) for n in cell.critical],
            ControlCount.of(subject.controls(cell), "random").clear, wrong,
        )
        for role, cell in cells.items()
    }  # fmt: skip
    _note(subject, cells)
    return Verdicts(subject.name, cells, verdicts, wrong, tuple(subject.session.notes))


def _note(subject: Subject, cells: dict[str, Cell]) -> None:
    """What a reader should know before believing it, as far as it shows only now."""
    note, collapse = subject.session.note, next(iter(cells.values())).collapse
    for metric, why in collapse.left_out.items():
        label = METRICS[metric].label
        note(
            f"{label}: not measured, so collapse is judged by the rest" if why == "not measured"
            else f"{label}: that of the intact model is itself at chance, so collapse is judged by the rest"
        )  # fmt: skip
    if not collapse.enough_samples:
        note(f"{collapse.samples} measured samples are too few for an interval, and to tell stage 1 from noise")
    copies = near_copies(subject.measured)
    if copies:
        note(f"{copies} of {len(subject.measured)} measured images are near copies of another, so intervals are too narrow")
    uneven = ", ".join(cell.name for cell in subject.cells.values() if not cell.collapse.monotone)
    if uneven:
        note(f"curves that are not monotone (at some k the model does notably better than at a smaller one): {uneven}")


def _answer(verdict: Verdict) -> Answer:
    """A handful needs everything; its absence must be seen too: k* beyond it, or no k up to it that collapses the model."""
    collapse, few = verdict.collapse, min(HANDFUL, verdict.neurons_total)
    if verdict.is_handful:
        return "yes"
    if verdict.complaints or any(k <= few for k in collapse.undecided):
        return "open"
    if collapse.k_star is None:
        return "no" if collapse.largest_k >= few else "open"
    return "open" if verdict.is_few and verdict.luck == "not tested" else "no"
