"""A :class:`Subject`: one model in its session, with the images of every experiment and the curves that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from lesion.ablation.measure import Ablation, Control
from lesion.core.collapse import detect_collapse
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import ALL, COMPONENTS, ROLES, Role, Sites
from lesion.data.samples import Sample, digest
from lesion.hooks.intervention import Intervention, Zero
from lesion.paper.cell import Cell, CellKey, unused_name
from lesion.paper.plan import Plan
from lesion.scoring.options import ScoreOptions
from lesion.study.importances import importances as score_all
from lesion.study.importances import note_unscored
from lesion.study.published import Known
from lesion.study.session import Session
from lesion.study.statistics import SCORERS_OF, scorers_for

HEAD: Role = "head"
Halves = tuple[list[Sample], list[Sample]]
"""Samples to rank on, and samples to measure on."""


class Subject:
    """A model under all experiments; every importance and every curve is made once.

    Args:
        session: Has all samples, those of the categories too.
        plan: What is varied.
        categories: By category; empty where the data has none.
        truth: What is known of the model.
    """

    def __init__(self, session: Session, plan: Plan, categories: Mapping[str, Halves], truth: Known | None) -> None:
        self.session, self.plan, self.categories, self.truth = session, plan, dict(categories), truth
        self.ranked, self.measured = session.ranked, session.measured
        wanted = (*ROLES, HEAD, plan.role)
        self.sites = Sites(s for s in session.vlm.sites if s.role in wanted)
        self.cells: dict[CellKey, Cell] = {}
        self._importances: dict[str, dict[str, Importance]] = {}
        self._ablations: dict[tuple[str, str], Ablation] = {}
        self._controls: dict[CellKey, tuple[Control, ...]] = {}

    @property
    def name(self) -> str:
        return self.session.options.model

    @property
    def components(self) -> list[str]:
        """Those with a neuron that can be reached."""
        return [c for c in COMPONENTS if any(s.component == c and s.reachable for s in self.sites)]

    def roles(self, component: str) -> list[Role]:
        """The roles that can be reached in a component, or in any; attention heads come last."""
        inside = [s.role for s in self.sites if s.reachable and component in (ALL, s.component)]
        return sorted(set(inside), key=lambda role: (ROLES.index(role) if role in ROLES else len(ROLES), role))

    def language_roles(self) -> list[Role]:
        """The roles of the language model that most experiments go through: feed-forward ones, and the plan's."""
        return [role for role in self.roles("language") if role in (*ROLES, self.plan.role)]

    def known_neurons(self, role: Role) -> NeuronSet | None:
        """The language model's neurons of a role that are known to be critical; None where nothing is known."""
        if self.truth is None or role not in ROLES:
            return None
        found = self.truth.neurons(self.session.vlm.sites, role)
        return found if len(found) else None

    def importance(
        self,
        scorer: str = "can",
        samples: Sequence[Sample] | None = None,
        options: ScoreOptions | None = None,
        component: str = ALL,
    ) -> Importance:
        """By one scorer.

        Args:
            scorer: Name in :data:`lesion.scoring.scorers.SCORERS`.
            samples: On which; default: those to rank on, where one pass gives all scorers of the plan.
            options: Default: those of the run.
            component: Whose sites are needed.
        """
        samples, options = samples or self.ranked, options or self.session.options.scoring()
        data = digest(samples)
        scorers, sites = (scorer,), self.sites
        shared = data == digest(self.ranked) and options == self.session.options.scoring()
        if shared:
            statistics = [name for names in SCORERS_OF.values() for name in names]
            scorers = tuple(dict.fromkeys(("can", *self.plan.scorers, "activation", *statistics)))
        elif component != ALL:
            sites = Sites(s for s in self.sites if s.component == component)
        text = f"{data}{scorers}{options}{[s.key for s in sites]}"
        file = f"importance/{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
        if file not in self._importances:
            importances = score_all(self.session, samples, scorers, options, file, sites)
            if shared:
                note_unscored(self.session, importances["can"], len(samples), Sites(s for s in sites if s.reachable))
            self._importances[file] = importances
        return self._importances[file][scorer]

    def ranking(
        self,
        component: str,
        role: Role,
        scorer: str = "can",
        samples: Sequence[Sample] | None = None,
        options: ScoreOptions | None = None,
    ) -> Ranking:
        """Of the neurons of a component and a role; the rest as for :meth:`importance`."""
        sites = self.session.vlm.sites.select(component, role, reachable_only=True)
        return Ranking(self.importance(scorer, samples, options, component), sites)

    def ablation(self, samples: Sequence[Sample] | None = None, intervention: Intervention | None = None) -> Ablation:
        """Masks and measures; default: sets to zero, on the samples to measure on."""
        chosen, act = samples or self.measured, intervention or Zero()
        key = digest(chosen), act.id
        if key not in self._ablations:
            importances = {name: self.importance(name) for name in scorers_for(act)}
            self._ablations[key] = self.session.ablation(chosen, act, importances)
        return self._ablations[key]

    def cell(
        self,
        component: str,
        role: Role,
        label: str | None = None,
        scorer: str = "can",
        options: ScoreOptions | None = None,
        ranked: Sequence[Sample] | None = None,
        measured: Sequence[Sample] | None = None,
        intervention: Intervention | None = None,
    ) -> Cell:
        """A curve; it is measured where no cell with the same key is there yet.

        Args:
            component: Whose neurons, or ``all``.
            role: Of which kind, or ``all`` for all of feed-forward networks.
            label: What a new cell is called. Default: component and role.
            scorer: What ranks them.
            options: Of the scorer. Default: those of the run.
            ranked: On which samples they are ranked. Default: those to rank on.
            measured: On which samples masks are measured. Default: those to measure on.
            intervention: What becomes of them. Default: zero.
        """
        study, act = self.session.options, intervention or Zero()
        options, ranked, measured = options or study.scoring(), ranked or self.ranked, measured or self.measured
        key = CellKey(component, role, scorer, options, digest(ranked), digest(measured), act.id)
        if key not in self.cells:
            ranking = self.ranking(component, role, scorer, ranked, options)
            limit = None if study.max_k is None else min(study.max_k, len(ranking))
            curve = self.ablation(measured, act).curve(ranking, limit)
            label = label or f"{component} {role}"
            name = unused_name(label, {cell.name for cell in self.cells.values()})
            collapse = detect_collapse(curve, study.seed, study.rule())
            self.cells[key] = Cell(key, label, name, ranking, curve, collapse)
        return self.cells[key]

    def controls(self, cell: Cell) -> tuple[Control, ...]:
        """Sets of the size of a cell's critical set, drawn by chance; none without a critical set.

        They are set to zero and measured on the samples to measure on, so the cell must be, too.
        """
        if cell.key not in self._controls:
            study, activation = self.session.options, self.importance("activation")
            drawn = self.ablation().controls(cell.critical, cell.ranking, activation, study.controls, 1000 * study.seed)
            self._controls[cell.key] = tuple(drawn)
        return self._controls[cell.key]
