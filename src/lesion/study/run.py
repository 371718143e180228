"""A :class:`Run` is one study under way: its session, and what its stages have made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from lesion.ablation.measure import Ablation
from lesion.core.collapse import Collapse
from lesion.core.curve import Curve
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.study.session import Session


class Run:
    """One study under way.

    Args:
        session: Open.
        stages: By name; each makes its part, or reads it where it is there.
        own: A ranking of one's own.
    """

    def __init__(self, session: Session, stages: Mapping[str, Callable[[Run], Any]], own: Ranking | None = None) -> None:
        self.session, self.own, self._stages = session, own, stages
        self._made: dict[str, Any] = {}

    def get(self, stage: str) -> Any:
        """What a stage makes: made now where that must be, otherwise read from its artefact."""
        if stage not in self._made:
            self._made[stage] = self._stages[stage](self)
        return self._made[stage]

    @property
    def importances(self) -> dict[str, Importance]:
        return self.get("importance")

    @property
    def ranking(self) -> Ranking:
        return self.get("ranking")

    @property
    def curve(self) -> Curve:
        return self.get("curve")

    @property
    def collapse(self) -> Collapse:
        return self.get("collapse")

    @property
    def critical(self) -> NeuronSet:
        """The top k*; empty without a collapse."""
        critical = self.ranking.top(self.collapse.k_star or 0)
        critical.identity = self.session.identity
        return critical

    @cached_property
    def ablation(self) -> Ablation:
        return self.ablate()

    def ablate(self, alone: bool = False) -> Ablation:
        """What masks do, by the study's own intervention; with one sample at a time, where that is asked for."""
        act = self.session.options.intervention()
        return self.session.ablation(None, act, self.importances if act.needs else {}, alone)
