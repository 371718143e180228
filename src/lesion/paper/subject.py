"""A :class:`Subject`: one model on its bench, with the images of every experiment and the curves that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lesion.core.criterion import Collapse, detect_collapse
from lesion.core.curve import Curve
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import COMPONENTS, ROLES, Role
from lesion.core.tables import Rows
from lesion.data.samples import Sample, digest
from lesion.hooks.intervene import VALUES
from lesion.paper.plan import Plan
from lesion.scoring.scorers import ScoreOptions
from lesion.study.bench import Bench, Measurement, mean_scorers
from lesion.study.published import Known

Halves = tuple[list[Sample], list[Sample]]
"""Samples to rank on, and samples to measure on."""


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: a ranking, what masking its top k does, and what that says. It outlives the model.

    Attributes:
        name: Unique within the model; the same in ``tables/curves.csv``.
        ranking: The neurons, the most important first.
        curve: Up to the collapse.
        collapse: What it says.
        keys: k -> key of the line in ``evaluations.jsonl`` that holds what was measured.
    """

    name: str
    ranking: Ranking
    curve: Curve
    collapse: Collapse
    keys: Mapping[int, str]

    @property
    def critical(self) -> NeuronSet:
        """The top k*; empty without a collapse."""
        return self.ranking.top(self.collapse.k_star or 0)

    def row(self) -> dict[str, Any]:
        """What every table says of a curve."""
        found, low, high = self.collapse, *self.collapse.k_star_ci
        return {
            "neurons": len(self.ranking), "stage1_k": found.stage1_k, "k_star": found.k_star,
            "share": None if found.k_star is None else found.k_star / len(self.ranking),
            "k_star_low": low, "k_star_high": high, "largest_k": found.largest_k, "monotone": found.monotone,
        }  # fmt: skip

    def points(self) -> Rows:
        """The curve as rows, each with its line in ``evaluations.jsonl``."""
        return [
            {"curve": self.name, "k": p.k, "collapsed": p.k in self.collapse.collapsed, **p.metrics,
             "evaluation": self.keys[p.k]}
            for p in self.curve
        ]  # fmt: skip


class Subject:
    """A model under all experiments; every importance and every curve is made once.

    Args:
        bench: Has all samples of ``images`` and ``categories``.
        plan: What is varied.
        images: The samples of all experiments but that on categories.
        categories: By category; empty where the data has none.
        truth: What is known of the model.
    """

    def __init__(
        self, bench: Bench, plan: Plan, images: Halves, categories: Mapping[str, Halves], truth: Known | None
    ) -> None:
        self.bench, self.plan, self.categories, self.truth = bench, plan, dict(categories), truth
        self.ranked, self.measured = images
        self.cells: dict[str, Cell] = {}
        self._importances: dict[str, dict[str, Importance]] = {}
        self._measures: dict[tuple[str, str], Measurement] = {}

    @property
    def name(self) -> str:
        return self.bench.options.model

    @property
    def components(self) -> list[str]:
        """Those with a neuron that can be reached."""
        return [c for c in COMPONENTS if any(s.component == c and s.reachable for s in self.bench.vlm.sites)]

    def roles(self, component: str) -> list[Role]:
        """The roles that a component has where it can be reached."""
        found = {s.role for s in self.bench.vlm.sites.select(component) if s.reachable}
        return [r for r in ROLES if r in found]

    def known_neurons(self, role: Role) -> NeuronSet | None:
        """The language model's neurons of a role that are known to be critical; None where nothing is known."""
        return None if self.truth is None else self.truth.neurons(self.bench.vlm.sites, role)

    def importance(
        self, scorer: str = "can", samples: Sequence[Sample] | None = None, options: ScoreOptions | None = None
    ) -> Importance:
        """By one scorer.

        Args:
            scorer: Name in :data:`lesion.scoring.scorers.SCORERS`.
            samples: On which; default: those to rank on, where one pass gives all scorers of the plan.
            options: Default: those of the run.
        """
        shared = samples is None and options is None
        samples, options = samples or self.ranked, options or self.bench.options.scoring()
        values = tuple(dict.fromkeys(name for mask in VALUES for name in mean_scorers(mask)))
        scorers = tuple(dict.fromkeys(("can", *self.plan.scorers, "activation", *values))) if shared else (scorer,)
        text = f"{digest(samples)}{scorers}{options}"
        file = f"importance/{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
        if file not in self._importances:
            found = self.bench.importances(samples, scorers, options, file)
            if shared:
                self.bench.say_unscored(found["can"], len(samples), self.bench.vlm.sites.select(reachable_only=True))
            self._importances[file] = found
        return self._importances[file][scorer]

    def ranking(
        self,
        component: str,
        role: str,
        scorer: str = "can",
        samples: Sequence[Sample] | None = None,
        options: ScoreOptions | None = None,
    ) -> Ranking:
        """Of the neurons of a component and a role; the rest as for :meth:`importance`."""
        sites = self.bench.vlm.sites.select(component, role, reachable_only=True)
        return Ranking(self.importance(scorer, samples, options), sites)

    def measuring(self, samples: Sequence[Sample] | None = None, mask: str = "zero") -> Measurement:
        """Masks and measures; default: on the samples to measure on."""
        chosen = samples or self.measured
        key = digest(chosen), mask
        if key not in self._measures:
            means = {name: self.importance(name) for name in mean_scorers(mask)}
            self._measures[key] = self.bench.measuring(chosen, mask, means)
        return self._measures[key]

    def cell(self, name: str, ranking: Ranking, measure: Measurement) -> Cell:
        """The cell of a name; its curve is measured if it is new."""
        if name not in self.cells:
            limit = self.bench.options.max_k
            curve = measure.curve(ranking, None if limit is None else min(limit, len(ranking)))
            keys = {k: measure.key(ranking.top(k)) for k in curve.ks}
            self.cells[name] = Cell(name, ranking, curve, detect_collapse(curve, self.bench.options.seed), keys)
        return self.cells[name]

    def place(self, component: str, role: str) -> Cell:
        """Cell of a component and a role: CAN with the run's options, neurons set to zero."""
        return self.cell(f"{component} {role}", self.ranking(component, role), self.measuring())

    def method(self, label: str, scorer: str = "can", options: ScoreOptions | None = None) -> Cell:
        """Cell of a way to rank the language model's neurons of the plan's role."""
        role = self.plan.role
        if scorer == "can" and options in (None, self.bench.options.scoring()):
            return self.place("language", role)
        return self.cell(f"language {role}, {label}", self.ranking("language", role, scorer, None, options), self.measuring())
