"""An :class:`Unfinished` run: what is there of a study that has not come to its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from lesion.core.errors import RunError
from lesion.study import rundir
from lesion.study.lock import owner
from lesion.study.options import StudyOptions
from lesion.study.rundir import RunDirectory
from lesion.study.stages import STAGES

LAST = 12
"""So many of the sets that were measured last are listed."""


class Point(BaseModel):
    """A set that was measured."""

    neurons: int = Field(description="how many were masked")
    ppl_reference: float | None = Field(description="perplexity of the reference answers; None where it is not finite")


class Unfinished(BaseModel):
    """What is there of a study.

    ``command`` asks the same again, and goes on.
    """

    run: str
    model: str
    owner: str | None = Field(description="the process that works there; None where none is known to")
    started: str | None
    starts: int
    done: list[str] = Field(description="stages whose artefact is there")
    to_come: list[str]
    evaluations: int = Field(description="sets that were measured")
    last: list[Point] = Field(description="the last of them, the latest last")
    k_star: int | None = Field(description="where the curve is done and has a collapse")
    command: str

    @classmethod
    def load(cls, path: str | Path) -> Unfinished:
        """Reads a run directory; a study that is running there is not disturbed.

        Raises:
            RunError: No study is there, or a file is damaged.
        """
        folder = Path(path)
        config = folder / rundir.CONFIG
        if not config.is_file():
            raise RunError(f"{path} holds no study ({rundir.CONFIG} is missing); expected the run directory of a study")
        options = StudyOptions.from_yaml(config.read_bytes(), str(config))
        run = RunDirectory(folder)
        about: dict[str, Any] = run.read_json(rundir.MANIFEST) or {}
        collapse: dict[str, Any] = run.read_json(rundir.COLLAPSE) or {}
        measured = run.measured()
        done = [name for name, stage in STAGES.items() if (folder / stage.artefact).exists()]
        return cls(
            run=str(folder), model=options.model, owner=owner(folder), started=about.get("started"),
            starts=about.get("starts", 0), done=done, to_come=[name for name in STAGES if name not in done],
            evaluations=len(measured), last=[Point(neurons=k, ppl_reference=ppl) for k, ppl in measured[-LAST:]],
            k_star=collapse.get("k_star"), command=f"{options.command()} --out {shlex.quote(str(folder))}",
        )  # fmt: skip


def is_unfinished(path: str | Path) -> bool:
    """Whether a folder holds a study without its result."""
    folder = Path(path)
    return (folder / rundir.CONFIG).is_file() and not (folder / rundir.RESULT).exists()
