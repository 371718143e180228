"""The :class:`Difference` between two runs: what was asked otherwise, and what was found otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesion.core.neurons import NeuronSet
from lesion.study.result import Result
from lesion.study.rundir import CRITICAL

COMPARED = ("samples", "neurons_total", "stage1_k", "k_star", "k_star_fraction", "k_star_ci", "largest_k", "minimal_verified")
METRICS = ("ppl_reference", "clip_score")


@dataclass(frozen=True)
class Difference:
    """Two runs side by side.

    Attributes:
        runs: Their folders.
        options: Option -> its two values, of those that differ.
        conditions: The same of versions, device, dtype and model.
        found: What was found -> its two values, whether or not they differ.
        both: Critical neurons of both.
        only: Critical neurons of the first alone, and of the second alone.
    """

    runs: tuple[str, str]
    options: dict[str, tuple[Any, Any]]
    conditions: dict[str, tuple[Any, Any]]
    found: dict[str, tuple[Any, Any]]
    both: NeuronSet
    only: tuple[NeuronSet, NeuronSet]

    @property
    def jaccard(self) -> float | None:
        """Share of all critical neurons that are critical in both; None where neither has any."""
        every = len(self.both) + len(self.only[0]) + len(self.only[1])
        return len(self.both) / every if every else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "runs": self.runs, "differences": self.table(), "jaccard": self.jaccard,
            "both": [n.as_dict() for n in self.both], "only": [[n.as_dict() for n in part] for part in self.only],
        }  # fmt: skip

    def table(self) -> list[dict[str, Any]]:
        """One row a difference, and one for everything that was found."""
        parts = (("option", self.options), ("condition", self.conditions), ("found", self.found))
        return [
            {"kind": kind, "name": name, "first": first, "second": second}
            for kind, values in parts
            for name, (first, second) in values.items()
        ]


def diff(first: str | Path, second: str | Path) -> Difference:
    """Compares two finished runs.

    Args:
        first: A run directory.
        second: Another.

    Raises:
        RunError: One is not the directory of a finished study.
        NeuronSetError: Its ``critical.json`` cannot be read.
    """
    a, b = Result.load(first), Result.load(second)
    one, other = (NeuronSet.load(Path(run) / CRITICAL) for run in (first, second))
    return Difference(
        runs=(str(first), str(second)), options=_unlike(a.options, b.options),
        conditions=_unlike(_flat(a.conditions), _flat(b.conditions)), found=_found(a, b), both=one & other,
        only=(one - other, other - one),
    )  # fmt: skip


def _unlike(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*first, *second))
    return {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}


def _flat(conditions: dict[str, Any]) -> dict[str, Any]:
    """Nested conditions by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in conditions.items():
        inner = _flat(value) if isinstance(value, dict) else {}
        flat |= {f"{name}.{key}": v for key, v in inner.items()} if isinstance(value, dict) else {name: value}
    return flat


def _found(a: Result, b: Result) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {name: (getattr(a, name), getattr(b, name)) for name in COMPARED}
    for name in METRICS:
        found[f"intact {name}"] = a.baseline.get(name), b.baseline.get(name)
    for name in METRICS:
        found[f"{name} at k*"] = _at_end(a, name), _at_end(b, name)
    return found


def _at_end(result: Result, metric: str) -> float | None:
    return next((p.metrics.get(metric) for p in result.curve if p.k == result.k_star), None)
