"""Where a command shows how far it is: bars on a terminal, a line now and then in a log, and JSON lines for machines."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.core.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from lesion.core.progress import Advance, Progress

LogJson = Annotated[
    Path | None, typer.Option("--log-json", metavar="FILE", help="add a line of JSON to a file for everything that happens")
]
EVERY = 30.0
"""At most one line in so many seconds of a stage goes to a log."""
EVERY_EVENT = 1.0
"""The same for JSON."""
POINTS = 4
"""So many of the last points of the curve are shown."""


def listener(log_json: Path | None = None) -> Progress:
    """Shows progress on standard error, and writes it to a file.

    Args:
        log_json: The file, which is added to; None for none.

    Raises:
        OptionError: It cannot be written.
    """
    from rich.console import Console

    console = Console(stderr=True)
    shown = Bars(console) if console.is_terminal else Lines(console)
    return shown if log_json is None else Both(shown, Events(log_json))


class Clock:
    """How far a stage is."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done, self._start = name, total, 0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since its beginning."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float | None:
        """About how many seconds more, if the rest takes as long a step; None where that cannot be said."""
        if not self.total or not self.done:
            return None
        return self.seconds / self.done * max(self.total - self.done, 0)


class Throttled:
    """Calls something with a stage's clock at most once in so many seconds."""

    def __init__(self, clock: Clock, every: float, tell: Callable[[Clock], None]) -> None:
        self._clock, self._every, self._tell, self._last = clock, every, tell, time.monotonic()

    def __call__(self, steps: int) -> None:
        self._clock.done += steps
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._tell(self._clock)


class Lines:
    """A line at every stage, and while it lasts one every :data:`EVERY` seconds."""

    def __init__(self, console: Console) -> None:
        self._console, self._points = console, deque[str](maxlen=POINTS)

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        clock = Clock(name, total)
        self._say(name if total is None else f"{name} ({total:,})")
        yield Throttled(clock, EVERY, self._tell)

    def _tell(self, clock: Clock) -> None:
        done = f"{clock.done:,} done" if clock.total is None else f"{clock.done:,} of {clock.total:,}"
        left = "" if clock.left is None else f", about {duration(clock.left)} left"
        self._say(f"{clock.name}: {done} in {duration(clock.seconds)}{left}{last(self._points)}")

    def _say(self, line: str) -> None:
        self._console.print(f"[{datetime.now():%H:%M:%S}] {line}", soft_wrap=True, markup=False, highlight=False)

    def point(self, k: int, perplexity: float | None, decision: str) -> None:
        self._points.append(point(k, perplexity, decision))

    def warn(self, line: str) -> None:
        warn(self._console, line)


class Bars:
    """A bar for each stage, with the last points of the curve."""

    def __init__(self, console: Console) -> None:
        self._console, self._points = console, deque[str](maxlen=POINTS)
        self._show: Callable[[str], None] = lambda text: None

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Left(),
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(escape(name), total=total)
            self._points.clear()
            self._show = lambda text: bars.update(task, description=escape(name + text))
            yield lambda steps: bars.advance(task, steps)
            self._show = lambda text: None

    def point(self, k: int, perplexity: float | None, decision: str) -> None:
        self._points.append(point(k, perplexity, decision))
        self._show(last(self._points))

    def warn(self, line: str) -> None:
        warn(self._console, line)


class Events:
    """JSON lines in a file, each with the time and what happened.

    Args:
        path: The file, which is added to.

    Raises:
        OptionError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._add("begin", pid=_pid())
        except OSError as error:
            raise OptionError(f"--log-json {path} cannot be written ({error.strerror or error}); expected a file") from None

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        clock = Clock(name, total)
        self._add("stage", stage=name, total=total)
        yield Throttled(clock, EVERY_EVENT, self._tell)
        self._add("stage done", stage=name, done=clock.done, seconds=round(clock.seconds, 3))

    def _tell(self, clock: Clock) -> None:
        left = None if clock.left is None else round(clock.left, 1)
        self._add("progress", stage=clock.name, done=clock.done, total=clock.total, seconds_left=left)

    def point(self, k: int, perplexity: float | None, decision: str) -> None:
        self._add("point", k=k, ppl_reference=perplexity, decision=decision)

    def warn(self, line: str) -> None:
        self._add("warning", text=line)

    def _add(self, event: str, **about: Any) -> None:
        # Opened each time, so that a log may be moved away while a study runs.
        with self._path.open("a", encoding="utf-8") as file:
            time_now = datetime.now().astimezone().isoformat(timespec="milliseconds")
            file.write(json.dumps({"time": time_now, "event": event, **about}, ensure_ascii=False) + "\n")


class Both:
    """Tells two listeners."""

    def __init__(self, first: Progress, second: Progress) -> None:
        self._first, self._second = first, second

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        with self._first.stage(name, total) as one, self._second.stage(name, total) as two:

            def advance(steps: int) -> None:
                one(steps)
                two(steps)

            yield advance

    def point(self, k: int, perplexity: float | None, decision: str) -> None:
        self._first.point(k, perplexity, decision)
        self._second.point(k, perplexity, decision)

    def warn(self, line: str) -> None:
        self._first.warn(line)
        self._second.warn(line)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def point(k: int, perplexity: float | None, decision: str) -> str:
    """A point of the curve in a few words."""
    value = "not finite" if perplexity is None else f"{perplexity:,.4g}"
    return f"k = {k:,}: perplexity {value}, {decision}"


def last(points: deque[str]) -> str:
    """The last points, behind a stage's name."""
    return "".join(f"; {text}" for text in points)


def warn(console: Console, line: str) -> None:
    """A line that stands out."""
    from rich.markup import escape

    console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)


def _pid() -> int:
    import os

    return os.getpid()
