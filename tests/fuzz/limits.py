"""What a reader may take of time and memory for one file, and what it may say of a bad one."""

from __future__ import annotations

import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesion.core.errors import LesionError

SECONDS = 5.0
"""Of processor time for one file."""
GROWTH = 192 << 20
"""So many bytes may the memory in use grow by for one file; a file has some kilobytes."""
ROOM = 2 << 30
"""So many bytes of address space may be asked for beyond those in use at the start."""


class TooSlow(BaseException):
    """A reader used up its time. No reader catches it as an error of its own."""


@dataclass(frozen=True)
class Failure:
    """What a reader did that it must not do.

    Attributes:
        kind: The exception and where it came from, the same for every file that fails in the same way.
        what: In words.
        data: The file.
    """

    kind: str
    what: str
    data: bytes


def attempt(read: Callable[[bytes], None], data: bytes, growth: int = GROWTH) -> Failure | None:
    """Has a reader read a file; None where it returned, or refused the file as it should.

    Args:
        read: The reader.
        data: The file.
        growth: How many bytes the memory in use may grow by.
    """
    before, failure = _peak(), None
    try:
        with _timed():
            read(data)
    except LesionError as error:
        failure = _said(str(error), data)
    except (Exception, TooSlow) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        own = next((frame for frame in reversed(frames) if "/lesion/" in frame.filename), frames[-1])
        where = f"{Path(own.filename).name}:{own.name}"
        failure = Failure(f"{type(error).__name__} in {where}", f"{type(error).__name__}: {error} ({where})"[:2000], data)
    if failure is None and _peak() - before > growth:
        failure = Failure("memory", f"it took {(_peak() - before) >> 20} MiB", data)
    return failure


def _said(message: str, data: bytes) -> Failure | None:
    try:
        check_message(message)
    except AssertionError as error:
        return Failure("message", str(error), data)
    return None


def check_message(message: str) -> None:
    """A message must be one line that a terminal can show."""
    assert message.strip() and message.isprintable() and len(message) <= 1500, f"{len(message)} characters: {message[:300]!r}"


@contextmanager
def _timed() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        # One that is on its way ends the process where nothing handles it.
        signal.signal(signal.SIGPROF, signal.SIG_IGN if before == signal.SIG_DFL else before)


def _peak() -> int:
    """The most memory that the process has had in use until now, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def bounded() -> Iterator[None]:
    """Bounds the address space, so that a length that lies is a MemoryError and not a dead machine.

    The peak is counted from here: whatever the process had in use before would hide what a reader takes.
    """
    Path("/proc/self/clear_refs").write_text("5")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
