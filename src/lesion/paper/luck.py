"""Is it minimal, is it luck: the 1-minimal set with its certificate, and control sets of the same size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.ablation.controls import KINDS
from lesion.ablation.measure import Control
from lesion.ablation.minimal import Minimal
from lesion.core.criterion import Criterion, Decision
from lesion.core.evaluation import Evaluation
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.similarity import jaccard
from lesion.core.statistics import share_upper_bound
from lesion.core.tables import Rows
from lesion.paper.cell import Cell
from lesion.paper.part import Part, of_metrics
from lesion.paper.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("ppl_reference", "nll_reference", "clip_score")


@dataclass(frozen=True)
class LeaveOneOut:
    """A minimal set without one of its members."""

    without: Neuron
    decision: Decision
    point: Evaluation


@dataclass(frozen=True)
class ControlCount:
    """How the control sets of one kind came out.

    Attributes:
        drawn: How many were drawn and measured.
        fallen: How many of them collapse the model.
        undecided: Of how many the samples do not tell.
    """

    drawn: int
    fallen: int
    undecided: int

    @classmethod
    def of(cls, controls: tuple[Control, ...], kind: str) -> ControlCount:
        """Counts the controls of a kind."""
        decisions = Counter(c.decision for c in controls if c.kind == kind and c.decision is not None)
        return cls(decisions.total(), decisions["collapsed"], decisions["undecided"])

    @property
    def bound(self) -> float | None:
        """With 95 % confidence at most this share of all such sets collapses the model; an undecided one counts as if it
        did. None where none was drawn."""
        return share_upper_bound(self.fallen + self.undecided, self.drawn) if self.drawn else None

    @property
    def clear(self) -> tuple[int, int]:
        """How many sets are decided, and how many of these collapse the model: what a verdict goes by."""
        return self.drawn - self.undecided, self.fallen


@dataclass(frozen=True)
class Proof:
    """One role's critical set under proof.

    Attributes:
        role: Of the language model.
        cell: Its curve.
        minimal: None without a collapse.
        certificate: The leave-one-outs of the minimal set, where it is verified and has more than one neuron.
        controls: Of k*'s size.
    """

    role: str
    cell: Cell
    minimal: Minimal | None
    certificate: tuple[LeaveOneOut, ...]
    controls: tuple[Control, ...]

    def words(self) -> list[str]:
        k_star, minimal = self.cell.k_star, self.minimal
        if k_star is None or minimal is None:
            return [f"{self.role}: {self.cell.clause()}, so there is no critical set to prove."]
        lines = [f"{self.role}: {self._minimal_in_words(k_star, minimal)}"]
        for kind in KINDS.values():
            count = ControlCount.of(self.controls, kind.name)
            if count.bound is None:
                tried = any(c.kind == kind.name for c in self.controls)
                why = "there are not enough other neurons to draw one" if tried else "none was asked for"
                lines.append(f"{self.role}, {_lower(kind.label)} ({k_star:,}): {why}.")
                continue
            unsure = f", {count.undecided} undecided" if count.undecided else ""
            lines.append(
                f"{self.role}, {_lower(kind.label)} ({k_star:,}): {count.fallen} of {count.drawn} collapse the model{unsure}; "
                f"with 95 % confidence at most {100 * count.bound:.0f} % of all such sets do."
            )
        return lines

    def _minimal_in_words(self, k_star: int, minimal: Minimal) -> str:
        size, tried = len(minimal.neurons), f"{minimal.tried:,} masks tried"
        if not minimal.verified:
            stopped = f"the search for a smaller set stopped at {size:,} of {k_star:,} neurons ({tried})"
            return f"{stopped}; whether fewer suffice is open."
        few = ", ".join(str(n) for n, _ in zip(minimal.neurons, range(8), strict=False)) + (", ..." if size > 8 else "")
        if size == 1:
            return f"1 neuron suffices: {few}." if k_star == 1 else f"1 of {k_star:,} neurons suffices ({tried}): {few}."
        unsure = sum(out.decision == "undecided" for out in self.certificate)
        needed = "each is needed, for without any one of them the model stands"
        if unsure:
            needed = f"whether the model stands without one of them is undecided for {unsure:,} of them"
        suffice = f"{size:,} of the {k_star:,} critical neurons suffice"
        if size == k_star:
            suffice = f"none of the {size:,} critical neurons could be left out"
        return f"{suffice}, and {needed} ({tried}): {few}."


@dataclass(frozen=True)
class Luck(Part):
    """The checks that the paper lacks: is every neuron of the set needed, and do other sets of its size do the same?

    Attributes:
        model: See :class:`lesion.paper.part.Part`.
        proofs: One a role.
        decades: The rise of the perplexity, in powers of ten, that the criterion asks for; None where it asks for none.
    """

    name = "luck"
    title = "Is it minimal, is it luck"
    model: str
    proofs: tuple[Proof, ...]
    decades: float | None

    def words(self) -> list[str]:
        return [line for proof in self.proofs for line in proof.words()]

    def table(self) -> Rows:
        rows: list[dict[str, Any]] = []
        for p in self.proofs:
            minimal = p.minimal
            row: dict[str, Any] = {
                "role": p.role, "k_star": p.cell.k_star, "minimal": len(minimal.neurons) if minimal else None,
                "verified": minimal.verified if minimal else None, "tried": minimal.tried if minimal else None,
                "jaccard_prefix_minimal": jaccard(p.cell.critical, minimal.neurons) if minimal else None,
            }  # fmt: skip
            for kind in KINDS:
                count = ControlCount.of(p.controls, kind)
                row |= {f"{kind}_drawn": count.drawn, f"{kind}_collapsed": count.fallen, f"{kind}_undecided": count.undecided}
            rows.append({**row, "curve": p.cell.name})
        return rows

    def more_tables(self) -> dict[str, Rows]:
        """The certificate and the controls, a row a mask."""
        certificate: list[dict[str, Any]] = [
            {"role": p.role, "without": str(out.without), "decision": out.decision, **of_metrics(out.point.metrics, *SHOWN),
             "evaluation": out.point.key}
            for p in self.proofs
            for out in p.certificate
        ]  # fmt: skip
        controls: list[dict[str, Any]] = [
            {"role": p.role, "kind": c.kind, "seed": c.seed, "k": c.k, "decision": c.decision or "not drawn",
             **(dict.fromkeys(SHOWN) if c.evaluation is None else of_metrics(c.evaluation.metrics, *SHOWN)),
             "evaluation": None if c.evaluation is None else c.evaluation.key}
            for p in self.proofs
            for c in p.controls
        ]  # fmt: skip
        return {"certificate": certificate, "controls": controls}

    def plot(self) -> Figure:
        """How far the perplexity rises: the critical set, the minimal set's leave-one-outs, and the controls."""
        from lesion.report.figures import GREY, new_figure

        figure, axes = new_figure(1, len(self.proofs), width=2.6 * len(self.proofs) + 1.2, height=3.6)
        for panel, proof in zip(axes[0], self.proofs, strict=True):
            _draw(panel, proof)
            if self.decades is not None:
                panel.axhline(self.decades, color=GREY, linestyle=":", linewidth=1)
        needs = "" if self.decades is None else "\n(dotted: the rise that a collapse needs)"
        axes[0, 0].set_ylabel(f"log10 of the perplexity's rise{needs}", fontsize=8)
        figure.suptitle(f"{self.model}: the critical set against others of its size (x: not finite)", fontsize=9)
        return figure


def _draw(axes: Axes, proof: Proof) -> None:
    from lesion.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE

    intact = proof.cell.curve.intact.metrics["nll_reference"]
    groups: list[tuple[str, list[Evaluation], str]] = []
    if proof.cell.k_star is not None:
        groups.append((f"top {proof.cell.k_star:,}", [proof.cell.curve.at(proof.cell.k_star)], ORANGE))
    if proof.certificate:
        groups.append(("minimal, one left out", [out.point for out in proof.certificate], PURPLE))
    for kind, colour in zip(KINDS, (GREY, BLUE, GREEN), strict=False):
        groups.append((kind, [c.evaluation for c in proof.controls if c.kind == kind and c.evaluation is not None], colour))
    for x, (_, points, colour) in enumerate(groups):
        values = [p.metrics["nll_reference"] for p in points]
        rises = [(v - intact) / np.log(10) for v in values if v is not None and intact is not None]
        spread = np.linspace(-0.2, 0.2, len(rises)) if len(rises) != 1 else np.zeros(1)
        axes.plot(x + spread, rises, "o", color=colour, markersize=4)
        if len(rises) < len(values):
            axes.plot(x, 0.97, "x", color=colour, transform=axes.get_xaxis_transform())
    axes.set_xticks(range(len(groups)), [name for name, _, _ in groups], rotation=60, ha="right", fontsize=8)
    axes.set_title(proof.role, fontsize=9)


def luck(subject: Subject) -> Luck:
    """Proves every role's critical set in the language model.

    Args:
        subject: The model; the curves and the controls are shared with other parts.
    """
    proofs = tuple(_proof(subject, role) for role in subject.language_roles())
    return Luck(subject.name, proofs, _decades(subject.session.options.rule()))


def _proof(subject: Subject, role: str) -> Proof:
    cell, options = subject.cell("language", role), subject.session.options
    if cell.k_star is None:
        return Proof(role, cell, None, (), ())
    ablation = subject.ablation()
    few = cell.k_star <= options.minimal_limit
    minimal = ablation.minimal(cell.ranking, cell.k_star, None if few else subject.plan.trials)
    certificate: list[LeaveOneOut] = []
    if minimal.verified and len(minimal.neurons) > 1:
        members = list(minimal.neurons)
        points = ablation.many([minimal.neurons - NeuronSet([neuron]) for neuron in members])
        certificate = [LeaveOneOut(n, ablation.decide(p), p) for n, p in zip(members, points, strict=True)]
    return Proof(role, cell, minimal, tuple(certificate), subject.controls(cell))


def _decades(criterion: Criterion) -> float | None:
    limits = [c.limit for c in getattr(criterion, "conditions", ()) if c.test == "decades"]
    return limits[0] if limits else None


def _lower(label: str) -> str:
    return label[0].lower() + label[1:]
