"""The :class:`Difference` between two runs: the options and conditions that differ, and what each of them found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesion.core.metrics import METRICS
from lesion.core.neurons import NeuronSet
from lesion.study.measured import Metrics
from lesion.study.result import Result
from lesion.study.rundir import CRITICAL

ANSWERS = (
    "samples", "neurons_total", "stage1_k", "k_star", "k_star_fraction", "k_star_ci", "largest_k", "undecided",
    "minimal_verified", "handful",
)  # fmt: skip
"""Fields of a result that are set side by side, whether or not they differ."""

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Difference:
    """Two runs side by side.

    Attributes:
        runs: Their folders.
        results: Their answers.
        both: Critical neurons of both, by site and index.
        only: Critical neurons of the first alone, and of the second alone.
    """

    runs: tuple[str, str]
    results: tuple[Result, Result]
    both: NeuronSet
    only: tuple[NeuronSet, NeuronSet]

    @property
    def options(self) -> dict[str, Pair]:
        """Options that differ -> their two values."""
        first, second = self.results
        return _differing(first.options, second.options)

    @property
    def conditions(self) -> dict[str, Pair]:
        """The same of versions, device, dtype and model; nested ones by dotted names."""
        first, second = self.results
        return _differing(_flat(first.conditions), _flat(second.conditions))

    @property
    def answers(self) -> dict[str, Pair]:
        """Fields of the result -> their two values."""
        first, second = self.results
        return {name: (getattr(first, name), getattr(second, name)) for name in ANSWERS}

    @property
    def intact(self) -> dict[str, Pair]:
        """Metrics of a short table -> their values in the two intact models."""
        first, second = self.results
        return _side_by_side(first.baseline, second.baseline)

    @property
    def collapsed(self) -> dict[str, Pair]:
        """The same at the two k*; None where there is none."""
        first, second = (_at_k_star(result) for result in self.results)
        return _side_by_side(first, second)

    @property
    def same_model(self) -> bool:
        """Whether both are about the same weights."""
        first, second = self.results
        return not first.identity.differs_from(second.identity)

    @property
    def jaccard(self) -> float | None:
        """Share of all critical neurons that are critical in both; None where neither has any."""
        every = len(self.both) + len(self.only[0]) + len(self.only[1])
        return len(self.both) / every if every else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "runs": self.runs, "same_model": self.same_model, "differences": self.table(), "jaccard": self.jaccard,
            "both": self.both.table(), "only": [part.table() for part in self.only],
        }  # fmt: skip

    def table(self) -> list[dict[str, Any]]:
        """One row a difference, and one for each answer and metric."""
        parts = {
            "option": self.options, "condition": self.conditions, "answer": self.answers, "intact": self.intact,
            "at k*": self.collapsed,
        }  # fmt: skip
        return [
            {"kind": kind, "name": name, "first": first, "second": second}
            for kind, pairs in parts.items()
            for name, (first, second) in pairs.items()
        ]


def diff(first: str | Path, second: str | Path) -> Difference:
    """Compares two finished runs, of the same model or of two.

    Args:
        first: A run directory.
        second: Another.

    Raises:
        RunError: One is not the directory of a finished study.
        NeuronSetError: Its ``critical.json`` cannot be read.
    """
    results = Result.load(first), Result.load(second)
    one, other = (NeuronSet.load(Path(run) / CRITICAL) for run in (first, second))
    both = _members(one, other, shared=True)
    only = _members(one, other, shared=False), _members(other, one, shared=False)
    return Difference((str(first), str(second)), results, both, only)


def _members(neurons: NeuronSet, others: NeuronSet, shared: bool) -> NeuronSet:
    """The neurons that the others have too, or do not have. Two models' sites are the same by key, whatever their width."""
    by_key = {site.key: others.indices(site) for site in others.sites}
    members = {}
    for site in neurons.sites:
        indices = neurons.indices(site)
        members[site] = indices[np.isin(indices, by_key.get(site.key, ()), invert=not shared)]
    return NeuronSet.from_arrays(members, neurons.identity)


def _differing(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Pair]:
    names = dict.fromkeys((*first, *second))
    return {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}


def _flat(conditions: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in conditions.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _side_by_side(first: Metrics, second: Metrics) -> dict[str, Pair]:
    return {m.name: (first.get(m.name), second.get(m.name)) for m in METRICS.values() if m.headline}


def _at_k_star(result: Result) -> Metrics:
    return next((p.metrics for p in result.curve if p.k == result.k_star), {})
