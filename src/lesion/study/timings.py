"""``timings.json``: how long the stages of a run took, all its starts together."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lesion.core.files import write_text
from lesion.study.rundir import TIMINGS


class Timings(BaseModel):
    """Of a run; not part of its answer. What a process that was killed was at is not in it."""

    stages: dict[str, float] = {}
    """By name, in seconds."""
    replicas: list[int] = []
    """In other processes, each time that it was another number; 0 for the study's own process alone."""

    @classmethod
    def load(cls, run: Path) -> Timings | None:
        """Of a run directory; None where there are none."""
        try:
            return cls.model_validate_json((run / TIMINGS).read_bytes())
        except (OSError, ValidationError):
            return None

    def add(self, stage: str, seconds: float, replicas: int, run: Path) -> None:
        """A stage, or a part of one; written."""
        self.stages[stage] = round(self.stages.get(stage, 0.0) + seconds, 3)
        if self.replicas[-1:] != [replicas]:
            self.replicas.append(replicas)
        write_text(run / TIMINGS, json.dumps(self.model_dump(), indent=1) + "\n")
