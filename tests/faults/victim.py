"""The study that faults are injected into, and what must be true of it afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lesion import Study
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.rundir import RunDirectory

OPTIONS: dict[str, Any] = {
    "data": "questions", "samples": 8, "controls": 1, "max_new_tokens": 2, "clip": "none", "search": "measured",
    "search_budget": 60, "shortlist": 20,
}  # fmt: skip
"""Yes and no are short: every stage has something to do, in seconds."""


@cache
def model() -> VisionLanguageModel:
    """Loaded once."""
    return load("tiny-llava")


def study(out: Path) -> Study:
    return Study(model(), out=out, **OPTIONS)


@dataclass(frozen=True)
class Whole:
    """What the study is without a fault.

    Attributes:
        result: ``result.json`` but for where it is.
        evaluations: Lines of ``evaluations.jsonl``.
    """

    result: dict[str, Any]
    evaluations: int

    @classmethod
    def made(cls, run: Path) -> Whole:
        """Runs it."""
        study(run).run()
        return cls(result_of(run), len(lines_of(run)))

    def lost(self, run: Path, before: bytes) -> str | None:
        """Whether a run that went on after a fault ended otherwise.

        Args:
            run: The run directory, finished.
            before: The evaluations as the fault left them.

        Returns:
            What was lost or wrong; None for nothing.
        """
        after = (run / rundir.EVALUATIONS).read_bytes()
        if not after.startswith(before[: before.rfind(b"\n") + 1]):
            return "finished evaluations were changed"
        keys = [line["key"] for line in lines_of(run)]
        if len(set(keys)) != len(keys):
            return "an evaluation was repeated"
        if len(keys) != self.evaluations:
            return f"{len(keys)} evaluations instead of {self.evaluations}"
        rest = [p.name for p in run.iterdir() if p.name.startswith(".") and not p.name.startswith(".lock")]
        if result_of(run) != self.result:
            return "the result differs"
        RunDirectory(run).measured()
        return f"left behind: {rest}" if rest else None


def result_of(run: Path) -> dict[str, Any]:
    return {k: v for k, v in json.loads((run / rundir.RESULT).read_text()).items() if k != "run"}


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / rundir.EVALUATIONS).read_text().splitlines()]


def evaluations_of(run: Path) -> bytes:
    """As they are; empty where there are none yet."""
    path = run / rundir.EVALUATIONS
    return path.read_bytes() if path.exists() else b""


def resumed(run: Path, whole: Whole) -> str | None:
    """Goes on with a study behind a fault; what was lost, or None."""
    before = evaluations_of(run)
    study(run).run()
    lost = whole.lost(run, before)
    if lost is None:
        shutil.rmtree(run)
    return lost
