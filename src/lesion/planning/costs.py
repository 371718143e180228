"""The :class:`Costs` of one pass of each kind, measured on one machine (:mod:`lesion.planning.calibrate`)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["answer", "score", "read", "write", "babble", "alone"]
"""A pass over a sample: the intact model answers, or is scored (forward and backward); a masked one reads the reference answer;
it reads and answers, as a model that stands, or as one that has collapsed; the same with no other sample beside it."""


class Line(BaseModel):
    """Seconds of a task of so many passes: what every task takes, and what each pass adds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: float = Field(ge=0)
    one: float = Field(ge=0)

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> Line:
        """Through two points, each a number of passes and the seconds of a task of so many."""
        (passes, seconds), (more, longer) = few, many
        if more <= passes or longer <= seconds:
            return cls(task=0.0, one=max(longer, seconds) / more)
        one = (longer - seconds) / (more - passes)
        return cls(task=max(seconds - one * passes, 0.0), one=min(one, longer / more))


class Costs(BaseModel):
    """What a pass of each kind takes on one machine, and what it leaves behind."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device: str = Field(description="of the machine that they were measured on")
    threads: int = Field(description="of the CPU")
    passes: int = Field(description="so many were run to measure them")
    seconds: float = Field(description="so long that took")
    loading: float = Field(description="seconds to load the model")
    tasks: dict[Kind, Line] = Field(description="seconds of a task")
    handling: dict[Kind, float] = Field(description="seconds of the study's own process for a pass: metrics, and writing them")
    weights: int = Field(description="bytes")
    scoring: int = Field(description="bytes that a sample takes while it is scored, beside the weights")
    answering: int = Field(description="bytes that a sample takes while it is answered about")
    importance: int = Field(description="bytes of importance.safetensors")
    ranking: int = Field(description="bytes of ranking.csv")
    line: dict[Kind, int] = Field(description="bytes of evaluations.jsonl for a pass")

    def compute(self, kind: Kind, tasks: int, passes: int) -> float:
        """Seconds of tasks of so many passes in all, one after the other."""
        line = self.tasks[kind]
        return line.task * tasks + line.one * passes

    def handle(self, kind: Kind, passes: int) -> float:
        """Seconds of the study's own process for what comes of passes."""
        return self.handling.get(kind, 0.0) * passes
