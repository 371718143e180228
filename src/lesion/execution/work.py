"""``lesion work``: a process that does tasks of a study on a shared folder, until the study is done."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lesion.core.errors import LesionError, OptionError, RunError
from lesion.execution.shards import BEAT, CURRENT, GROUNDS, LOOK, SLOWEST, SPEC, TASKS, WORK, Claims
from lesion.study.replica import Replica
from lesion.study.rundir import FAULTS, RESULT
from lesion.study.spec import Spec

IDLE = 600.0
"""Seconds for which a worker waits for a study that has not begun, or for more tasks."""


def work(run: str | Path, shard: str = "0/1", idle: float = IDLE, **own: Any) -> int:
    """Does tasks until the study has its result, or the campaign of faults its answer.

    Args:
        run: The study's run directory; it need not be there yet.
        shard: Which worker of how many, such as ``0/4``: each begins with other tasks.
        idle: Seconds to wait for more to do; then the worker ends.
        own: Options that are this process's own (:data:`lesion.study.replica.OURS`).

    Returns:
        How many tasks it did.

    Raises:
        OptionError: The shard is none.
        RunError: The model, its versions or the data are others here; nothing came for too long.
    """
    mine, shards = parse_shard(shard)
    folder, replicas, count = Path(run), _Replicas(own), 0
    quiet, pause = time.monotonic(), LOOK
    while True:
        current = _current(folder)
        claims = None if current is None else Claims(current, mine, shards)
        name = None if claims is None else claims.take()
        if claims is None or name is None:
            if claims is None and any((folder / name).exists() for name in (RESULT, FAULTS)):
                return count
            if time.monotonic() - quiet > idle:
                raise RunError(f"{folder} had nothing to do for {idle:.0f} s; is its study running, with --executor shards?")
            time.sleep(pause)
            pause = min(2 * pause, SLOWEST)
            continue
        count += _do(claims, name, lambda claims=claims: replicas.of(claims.folder))
        quiet, pause = time.monotonic(), LOOK


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N``, from 0.

    Raises:
        OptionError: It is none.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise OptionError(f"shard is {text!r}; expected I/N with I from 0 to N - 1, such as 0/4")
    return int(found[1]), int(found[2])


def _do(claims: Claims, name: str, replica: Callable[[], Replica]) -> int:
    """Does a task, or gives it back; returns how many were done."""
    with _touched(claims, name):
        try:
            made = replica()
        except LesionError:
            claims.failed(name, "a worker was refused")
            raise
        except FileNotFoundError:
            return 0  # the study's process is gone
        try:
            task = (claims.folder / TASKS / name).read_bytes()
            claims.done(name, made.do(task, lambda ground: (claims.folder / GROUNDS / Path(ground).name).read_bytes()))
        except FileNotFoundError:
            return 0
        except Exception as error:  # whatever a model raises; another worker may fare better
            claims.failed(name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return 0
    return 1


class _Replicas:
    """The replica of the study's process that is there; made anew where another one wants another."""

    def __init__(self, own: dict[str, Any]) -> None:
        self._own, self._spec, self._replica = own, b"", None

    def of(self, folder: Path) -> Replica:
        spec = (folder / SPEC).read_bytes()
        if self._replica is None or spec != self._spec:
            read = Spec.unpack(spec)
            if read.options.trust_remote_code and not self._own.get("trust_remote_code"):
                # Who can write into the folder is not who started the worker.
                raise RunError(
                    f"{folder} asks to run code that comes with {read.options.model}; if you trust it, give --trust-remote-code"
                )
            self._replica, self._spec = Replica(read, **self._own), spec
        return self._replica


def _current(folder: Path) -> Path | None:
    """The folder of the study's process; None where none is there."""
    try:
        # A name, whatever is written there: nothing outside is read.
        return folder / WORK / Path((folder / WORK / CURRENT).read_text()).name
    except OSError:
        return None


@contextmanager
def _touched(claims: Claims, name: str) -> Iterator[None]:
    """A claim is touched now and then while the context lasts."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            claims.touch(name)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
