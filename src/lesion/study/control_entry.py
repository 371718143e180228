"""A :class:`ControlEntry` is a control set in ``result.json``; a :class:`ControlGroup` is those of one kind, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lesion.ablation.controls import label_of
from lesion.core.statistics import share_upper_bound
from lesion.study.measured import Measured


class ControlEntry(Measured):
    """One control set. ``collapsed`` is None where it could not be drawn, or the samples do not decide."""

    kind: str
    seed: int
    k: int
    collapsed: bool | None
    evaluation: str | None = None


@dataclass(frozen=True)
class ControlGroup:
    """The control sets of one kind.

    Attributes:
        kind: See :data:`lesion.ablation.controls.KINDS`.
        sets: Those that could be drawn.
        missing: How many could not.
    """

    kind: str
    sets: tuple[ControlEntry, ...]
    missing: int

    @property
    def label(self) -> str:
        """For people."""
        return label_of(self.kind)

    @property
    def drawn(self) -> int:
        return len(self.sets)

    @property
    def fallen(self) -> int:
        """How many collapse the model."""
        return sum(bool(c.collapsed) for c in self.sets)

    @property
    def undecided(self) -> int:
        """Of how many the samples do not tell."""
        return sum(c.collapsed is None for c in self.sets)

    @property
    def standing(self) -> int:
        """How many leave the model standing."""
        return self.drawn - self.fallen - self.undecided

    @property
    def bound(self) -> float | None:
        """With 95 % confidence at most this share of all such sets collapses the model; None where none was drawn."""
        return share_upper_bound(self.fallen + self.undecided, self.drawn) if self.sets else None


def by_kind(controls: Sequence[ControlEntry]) -> dict[str, ControlGroup]:
    """The control sets of each kind, in the order in which the kinds come."""
    groups = {}
    for kind in dict.fromkeys(c.kind for c in controls):
        every = [c for c in controls if c.kind == kind]
        drawn = tuple(c for c in every if c.evaluation is not None)
        groups[kind] = ControlGroup(kind, drawn, len(every) - len(drawn))
    return groups
