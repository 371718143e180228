"""Runs the stages of a study: those that are not done, or were made from something else than is there now."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesion.core.errors import OptionError, RunError
from lesion.core.ranking import Ranking
from lesion.study import rundir
from lesion.study.own import note_force, trace
from lesion.study.result import Result
from lesion.study.run import Run
from lesion.study.session import Session
from lesion.study.stages import STAGES, Stage, begin, result
from lesion.study.timings import Timings


def check_stage(start: str | None) -> None:
    """Whether a stage is there to start from; None is from the first that is not done.

    Raises:
        OptionError: No stage has the name.
    """
    if start is not None and start not in STAGES:
        raise OptionError(f"stage {start!r} is unknown; expected one of {', '.join(STAGES)}")


def run_stages(session: Session, own: Ranking | None = None, start: str | None = None) -> Result:
    """Runs every stage whose artefact is missing, or was made from something else than is there now.

    Args:
        session: Open.
        own: A ranking of one's own.
        start: This stage and those behind it are made anew.

    Raises:
        OptionError: No stage has the name.
        RunError: An artefact is damaged.
    """
    check_stage(start)
    made_from: dict[str, dict[str, str]] = session.run.read_json(rundir.STAGES) or {}
    for stage in STAGES.values():
        session.run.read_bytes(stage.artefact)  # one that is damaged is found before a stage is made anew
    if start is not None:
        names = list(STAGES)
        for name in names[names.index(start) :]:
            _forget(session, STAGES[name])
    note_force(session)
    folder, run = session.run.path, begin(session, own)
    for stage in STAGES.values():
        inputs = {STAGES[name].artefact: _digest(folder / STAGES[name].artefact) for name in stage.after}
        if stage.name == "ranking":
            inputs |= trace(session.options, made_from.get("ranking", {}), _digest)
        if (folder / stage.artefact).exists() and made_from.get(stage.name) == inputs:
            continue
        for name in stage.after:
            run.get(name)  # what cannot be read is found before anything that was made from it is removed
        if stage.name in made_from:
            _forget(session, stage)  # it was made from something else than is there now
        with _timed(session, stage):
            run.get(stage.name)
        made_from[stage.name] = inputs
        session.run.write_json(rundir.STAGES, made_from)
    return _read(session, run)


@contextmanager
def _timed(session: Session, stage: Stage) -> Iterator[None]:
    """Notes how long a stage takes, also where it does not come to its end."""
    start, executor = time.perf_counter(), session.executor
    try:
        yield
    finally:
        timings = Timings.load(session.run.path) or Timings()
        seconds = time.perf_counter() - start
        timings.add(stage.name, seconds, 0 if executor is None else executor.replicas, session.run.path)


def _read(session: Session, run: Run) -> Result:
    """``result.json``; made anew where another version wrote it."""
    try:
        return Result.load(session.run.path)
    except RunError:
        session.progress.warn(f"{session.run.path / rundir.RESULT} is another version's; made anew from what was measured")
        return result(run)


def _forget(session: Session, stage: Stage) -> None:
    """Removes a stage's artefact, so that it is made anew. Evaluations stay: they are keyed by everything that decides them."""
    (session.run.path / stage.artefact).unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""
