"""Replicas are processes that share a folder with the study, such as the tasks of a Slurm array: there is no server.

Below ``RUN/work`` is a folder for the study's process: what a replica must be, what was shared, and tasks. A worker
(:mod:`lesion.execution.work`) *claims* a task by making a file, which one process alone can do on any file system; while it
works it touches the file. A claim that nobody has touched for :data:`EXPIRES` seconds is taken over. The study's process alone
writes into the run's own files, and removes what is done.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lesion.core.errors import OptionError, RunError
from lesion.core.files import write_bytes, write_text

WORK, CURRENT, SPEC = "work", "current", "spec"
TASKS, CLAIMS, DONE, FAILED, GROUNDS = "tasks", "claims", "done", "failed", "grounds"
EXPIRES = 60.0
"""Seconds after which a claim that was not touched is another's to take."""
BEAT = 10.0
"""Seconds between two touches of a claim."""
LOOK = 0.05
"""Seconds between two looks at the folder, at first; more where nothing happens."""
SLOWEST = 1.0
"""Seconds between two looks, at most."""
AHEAD = 16
"""So many tasks a worker are in the folder."""
TRIES = 3
"""So many workers try a task before it is given up."""


class ShardsExecutor:
    """Tasks in a folder, which workers do.

    Args:
        shards: How many workers there will be; a task is worked on by one of them, whichever is first.

    Raises:
        OptionError: No such number.
    """

    def __init__(self, shards: int = 2) -> None:
        if shards < 1:
            raise OptionError(f"shards is {shards}; expected at least 1")
        self._shards, self._folder, self._next = shards, Path(), 0

    @property
    def replicas(self) -> int:
        return self._shards

    @contextmanager
    def opened(self, spec: bytes, folder: Path) -> Iterator[None]:
        work = folder / WORK
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed; the lock says that there is no other
        self._folder, self._next = work / uuid.uuid4().hex[:8], 0
        for name in (TASKS, CLAIMS, DONE, FAILED, GROUNDS):
            (self._folder / name).mkdir(parents=True)
        write_bytes(self._folder / SPEC, spec)
        write_text(work / CURRENT, self._folder.name)
        try:
            yield
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def share(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()[:16]
        if not (self._folder / GROUNDS / name).exists():
            write_bytes(self._folder / GROUNDS / name, data)
        return name

    def run(self, tasks: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        waiting: dict[str, int] = {}
        following, ahead = 0, AHEAD * self._shards
        pause = LOOK
        while waiting or following < len(tasks):
            # Few at a time: a worker looks through all that are there.
            while following < len(tasks) and len(waiting) < ahead:
                name = f"{self._next:08d}"
                self._next += 1
                write_bytes(self._folder / TASKS / name, tasks[following])
                waiting[name] = following
                following += 1
            there = sorted(_names(self._folder / DONE) & waiting.keys())
            for name in there:
                data = (self._folder / DONE / name).read_bytes()
                self._remove(name)
                yield waiting.pop(name), data
            self._check(waiting)
            pause = LOOK if there else min(2 * pause, SLOWEST)
            if waiting:
                time.sleep(pause)

    def _check(self, waiting: Container[str]) -> None:
        """Whether a task has failed for good."""
        failures: dict[str, list[Path]] = {}
        for failure in sorted((self._folder / FAILED).iterdir(), key=lambda path: path.stat().st_mtime):
            name = failure.name.partition(".")[0]
            if name in waiting:
                failures.setdefault(name, []).append(failure)
        for of in failures.values():
            if len(of) >= TRIES:
                raise RunError(
                    f"a task failed on {TRIES} workers, at last with: {of[-1].read_text()}; what was measured before is kept"
                )

    def _remove(self, name: str) -> None:
        for part in (TASKS, CLAIMS, DONE):
            (self._folder / part / name).unlink(missing_ok=True)


def _names(folder: Path) -> set[str]:
    """The files of a folder, without those that are not whole yet."""
    return {name for name in os.listdir(folder) if name.isdigit()}


class Claims:
    """The tasks of a study's process, as a worker sees them.

    Args:
        folder: Of the process, below ``RUN/work``.
        mine: A worker begins with the tasks whose number leaves this rest, ...
        shards: ... divided by this, so that few workers want the same one.
    """

    def __init__(self, folder: Path, mine: int, shards: int) -> None:
        self.folder, self._mine, self._shards = folder, mine, shards

    def take(self) -> str | None:
        """Claims a task; None where there is none that nobody works on."""
        try:
            tasks, claimed, done = (_names(self.folder / part) for part in (TASKS, CLAIMS, DONE))
        except FileNotFoundError:
            return None
        # What nobody works on comes first, and of that a worker's own; then what somebody may have died over.
        order = sorted(tasks - done, key=lambda name: (name in claimed, int(name) % self._shards != self._mine, name))
        return next((name for name in order if self._claimed(name)), None)

    def _claimed(self, name: str) -> bool:
        claim = self.folder / CLAIMS / name
        with suppress(FileNotFoundError):
            if self._age(claim) < EXPIRES:
                return False
            # One alone can rename it; who was late finds the new one.
            dead = self.folder / FAILED / f"{name}.{uuid.uuid4().hex[:8]}"
            os.rename(claim, dead)
            dead.write_text("the worker was lost")
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def _age(self, claim: Path) -> float:
        """Seconds since a claim was touched, by the clock of the file system: those of machines differ."""
        mark = self.folder / CLAIMS / f".{uuid.uuid4().hex[:8]}"
        touched = claim.stat().st_mtime
        try:
            mark.touch()
            return mark.stat().st_mtime - touched
        finally:
            mark.unlink(missing_ok=True)

    def touch(self, name: str) -> None:
        """Says that a task is still worked on."""
        with suppress(OSError):
            os.utime(self.folder / CLAIMS / name)

    def done(self, name: str, data: bytes) -> None:
        """Hands in what came of a task; a study's process that is gone does not want it."""
        with suppress(FileNotFoundError):
            write_bytes(self.folder / DONE / name, data)

    def failed(self, name: str, why: str) -> None:
        """Gives a task back, for another worker to try."""
        with suppress(FileNotFoundError):
            write_text(self.folder / FAILED / f"{name}.{uuid.uuid4().hex[:8]}", why)
            (self.folder / CLAIMS / name).unlink(missing_ok=True)
