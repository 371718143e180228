"""A :class:`CurvePoint`: one k of the curve, as ``result.json`` holds it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lesion.core.evaluation import Evaluation
from lesion.core.outcome import SampleOutcome
from lesion.study.measured import Measured


class CurvePoint(Measured):
    """One k of the curve: ``k``, ``collapsed``, every metric by its name, and every sample's answer and values."""

    k: int
    collapsed: bool
    modes: dict[str, float]
    evaluation: str = Field(description="key of the line in evaluations.jsonl")
    outcomes: list[dict[str, Any]] = Field(description="what lesion.core.outcome.SampleOutcome holds, one a measured sample")

    def read(self) -> Evaluation:
        """With every sample's values."""
        return Evaluation(self.k, tuple(map(SampleOutcome.from_dict, self.outcomes)), self.evaluation)
