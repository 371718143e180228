"""Is it minimal, is it luck: the 1-minimal set with its certificate, and control sets of the same size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.ablation.controls import KINDS
from lesion.ablation.minimal import Minimal
from lesion.core.curve import Evaluation
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.similarity import jaccard
from lesion.core.tables import Rows
from lesion.paper.part import Part
from lesion.paper.subject import Cell, Subject
from lesion.study.result import Control, ControlKind, by_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LeftOut:
    """One member of a minimal set put back: what the others do without it."""

    neuron: Neuron
    collapsed: bool
    point: Evaluation
    evaluation: str


@dataclass(frozen=True)
class Proof:
    """One role's critical set under proof.

    Attributes:
        role: Of the language model.
        cell: Its curve.
        minimal: None without a collapse.
        certificate: The leave-one-outs of the minimal set, where it is verified.
        controls: Of k*'s size.
    """

    role: str
    cell: Cell
    minimal: Minimal | None
    certificate: tuple[LeftOut, ...]
    controls: tuple[Control, ...]

    def of_kind(self, kind: str) -> ControlKind:
        """The controls of a kind; empty without a collapse."""
        return by_kind(self.controls).get(kind) or ControlKind(kind, (), 0)


@dataclass(frozen=True)
class Luck(Part):
    """The checks that the paper lacks: is every neuron of the set needed, and do other sets of its size do the same?"""

    name = "luck"
    title = "Is it minimal, is it luck"
    model: str
    proofs: tuple[Proof, ...]

    def words(self) -> list[str]:
        lines = []
        for proof in self.proofs:
            k_star, minimal = proof.cell.collapse.k_star, proof.minimal
            if k_star is None or minimal is None:
                lines.append(f"{proof.role}: no collapse, so there is nothing to prove.")
                continue
            if minimal.verified:
                few = ", ".join(str(n) for n, _ in zip(minimal.neurons, range(8), strict=False))
                more = ", ..." if len(minimal.neurons) > 8 else ""
                lines.append(
                    f"{proof.role}: of the {k_star:,} critical neurons {len(minimal.neurons):,} are needed, each of them "
                    f"({minimal.tried:,} masks tried): {few}{more}."
                )
            else:
                lines.append(
                    f"{proof.role}: the search for a smaller set stopped after {minimal.tried:,} masks at "
                    f"{len(minimal.neurons):,} of {k_star:,} neurons; that not one more can go is not verified."
                )
            for kind in KINDS:
                found = proof.of_kind(kind)
                if found.bound is not None:
                    lines.append(
                        f"{proof.role}, {kind} sets of {k_star:,}: {found.fallen} of {found.drawn} collapse the model; "
                        f"at most {found.bound:.0%} of such sets do (95 % confidence)."
                    )
                else:
                    lines.append(f"{proof.role}, {kind} sets of {k_star:,}: there are not enough other neurons.")
        return lines

    def table(self) -> Rows:
        rows: list[dict[str, Any]] = []
        for p in self.proofs:
            minimal = p.minimal
            row = {
                "role": p.role, "k_star": p.cell.collapse.k_star,
                "minimal": len(minimal.neurons) if minimal else None,
                "verified": minimal.verified if minimal else None, "tried": minimal.tried if minimal else None,
                "jaccard_prefix_minimal": jaccard(p.cell.critical, minimal.neurons) if minimal else None,
            }  # fmt: skip
            for kind in KINDS:
                found = p.of_kind(kind)
                row |= {f"{kind}_drawn": found.drawn, f"{kind}_collapsed": found.fallen}
            rows.append({**row, "curve": p.cell.name})
        return rows

    def more_tables(self) -> dict[str, Rows]:
        """The certificate and the controls, a row a mask."""
        certificate: list[dict[str, Any]] = [
            {"role": p.role, "without": str(out.neuron), "collapsed": out.collapsed, **_short(out.point.metrics),
             "evaluation": out.evaluation}
            for p in self.proofs
            for out in p.certificate
        ]  # fmt: skip
        controls: list[dict[str, Any]] = [
            {"role": p.role, "kind": c.kind, "seed": c.seed, "k": c.k, "collapsed": c.collapsed,
             **_short(c.metrics), "evaluation": c.evaluation}
            for p in self.proofs
            for c in p.controls
        ]  # fmt: skip
        return {"certificate": certificate, "controls": controls}

    def plot(self) -> Figure:
        """How far the perplexity rises: the critical set, the minimal set's leave-one-outs, and the controls."""
        from lesion.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure

        figure, axes = new_figure(1, len(self.proofs), width=2.6 * len(self.proofs) + 1.2, height=3.6)
        for place, proof in zip(axes[0], self.proofs, strict=True):
            intact = proof.cell.curve.intact.metrics["nll_reference"]
            groups: list[tuple[str, list[float | None], str]] = []
            if proof.cell.collapse.k_star is not None:
                point = proof.cell.curve.at(proof.cell.collapse.k_star)
                groups.append((f"top {point.k:,}", [point.metrics["nll_reference"]], ORANGE))
            if proof.certificate:
                groups.append(("minimal, one left out", [o.point.metrics["nll_reference"] for o in proof.certificate], PURPLE))
            for kind, colour in zip(KINDS, (GREY, BLUE, GREEN), strict=True):
                values = [c.metrics.get("nll_reference") for c in proof.of_kind(kind).sets]
                groups.append((kind, values, colour))
            for x, (_, values, colour) in enumerate(groups):
                rises = [(v - intact) / np.log(10) for v in values if v is not None and intact is not None]
                spread = np.linspace(-0.2, 0.2, len(rises)) if len(rises) != 1 else np.zeros(1)
                place.plot(x + spread, rises, "o", color=colour, markersize=4)
            place.axhline(1.0, color=GREY, linestyle=":", linewidth=1)
            place.set_xticks(range(len(groups)), [name for name, _, _ in groups], rotation=60, ha="right", fontsize=8)
            place.set_title(proof.role, fontsize=9)
        axes[0, 0].set_ylabel("log10 of the perplexity's rise\n(dotted: what a collapse needs)", fontsize=8)
        figure.suptitle(f"{self.model}: the critical set against others of its size", fontsize=9)
        return figure


def luck(subject: Subject) -> Luck:
    """Proves every role's critical set in the language model.

    Args:
        subject: The model; the curves are shared with other parts.
    """
    return Luck(subject.name, tuple(_proof(subject, role) for role in subject.roles("language")))


def _proof(subject: Subject, role: str) -> Proof:
    cell, options = subject.place("language", role), subject.bench.options
    k_star = cell.collapse.k_star
    if k_star is None:
        return Proof(role, cell, None, (), ())
    measure = subject.measuring()
    few = k_star <= options.minimal_limit
    minimal = measure.minimal(cell.ranking, k_star, None if few else subject.plan.trials)
    certificate = []
    if minimal.verified and len(minimal.neurons) > 1:
        for neuron in minimal.neurons:
            rest = minimal.neurons - NeuronSet([neuron])
            point = measure(rest)
            certificate.append(LeftOut(neuron, measure.judge.collapsed(point), point, measure.key(rest)))
    controls = measure.controls(
        cell.critical, cell.ranking, subject.importance("activation"), options.controls, 1000 * options.seed
    )
    return Proof(role, cell, minimal, tuple(certificate), tuple(controls))


def _short(metrics: Any) -> dict[str, Any]:
    return {name: metrics.get(name) for name in ("ppl_reference", "nll_reference", "clip_score")}
