"""A :class:`Comparison`: what was planned for a study, and what it took."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from lesion.planning.plan import Plan
from lesion.study.result import Result
from lesion.study.timings import Timings


class StageComparison(BaseModel):
    """One stage; seconds."""

    stage: str
    planned: float
    took: float


class Comparison(BaseModel):
    """What was planned for a study, and what it took."""

    k_star: int | None
    planned_k_star: int | None
    stages: list[StageComparison]
    differs: str | None

    @property
    def planned(self) -> float:
        return sum(stage.planned for stage in self.stages)

    @property
    def took(self) -> float:
        return sum(stage.took for stage in self.stages)


def compare(result: Result) -> Comparison | None:
    """Holds what a finished study took against its plan; None where it has none, or its stages were not timed.

    Raises:
        RunError: The plan is damaged.
    """
    plan, timings = Plan.load(result.run), Timings.load(Path(result.run))
    if plan is None or timings is None:
        return None
    case = plan.case(result.k_star)
    differs = None
    if timings.replicas != [plan.replicas]:
        ran = ", then ".join(f"{count}" for count in timings.replicas)
        differs = f"the plan was for {plan.replicas} replicas, and it ran with {ran}"
    return Comparison(
        k_star=result.k_star, planned_k_star=case.k_star, differs=differs,
        stages=[
            StageComparison(stage=name, planned=case.stages[name].seconds, took=took)
            for name, took in timings.stages.items()
            if name in case.stages and (case.stages[name].passes or took > 1)
        ],
    )  # fmt: skip
