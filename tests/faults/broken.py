"""A disk that fails at one write, flush or rename, a disk that is full, and a machine without memory."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lesion.core.errors import LesionError
from lesion.models.batch import Batch
from lesion.models.embeds_engine import EmbedsEngine
from lesion.models.vlm import VisionLanguageModel
from tests.faults.victim import Whole, result_of, resumed, study

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
"""A full disk, a broken one, a quota: each operation gets one of them, in turn."""


class Counter:
    """Calls what it stands for, and fails at one call.

    Args:
        at: The call that fails, from 0; None for none.
        fail: Raises.
    """

    def __init__(self, at: int | None, fail: Callable[[], None]) -> None:
        self.calls, self._at, self._fail = 0, at, fail

    def around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            mine, self.calls = self.calls, self.calls + 1
            if mine == self._at:
                self._fail()
            return original(*args, **kwargs)

        return called


@contextmanager
def disk(counter: Counter) -> Iterator[None]:
    """Flushes and renames are counted, as are writes: half of what was to be written is, before one fails."""
    opened, fdopen = Path.open, os.fdopen

    def open_counted(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = opened(self, mode, *args, **kwargs)
        return _Counted(file, counter) if set(mode) & set("aw") else file

    with (
        mock.patch.object(os, "fsync", counter.around(os.fsync)),
        mock.patch.object(os, "replace", counter.around(os.replace)),
        mock.patch.object(Path, "open", open_counted),
        mock.patch.object(os, "fdopen", lambda *args, **kwargs: _Counted(fdopen(*args, **kwargs), counter)),
    ):
        yield


class _Counted:
    """A file whose writes are counted; one that fails has written half."""

    def __init__(self, file: Any, counter: Counter) -> None:
        self._file, self._counter = file, counter

    def write(self, data: Any) -> int:
        try:
            return self._counter.around(self._file.write)(data)
        except OSError:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise

    def __enter__(self) -> _Counted:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def fail_each(whole: Whole, folder: Path, step: int = 1) -> Iterator[tuple[str, str | None]]:
    """A study for every ``step``-th write, flush or rename, which fails.

    Yields:
        What was done, and what was lost; None for nothing.
    """
    counter = Counter(None, lambda: None)
    with disk(counter):
        study(folder / "counted").run()
    for number, at in enumerate(range(0, counter.calls, step)):
        code, run = ERRORS[number % len(ERRORS)], folder / f"failed-{at}"

        def fail(code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        what = f"operation {at} of {counter.calls} fails ({errno.errorcode[code]})"
        try:
            with disk(Counter(at, fail)):
                study(run).run()
        except (OSError, LesionError) as error:
            assert "\n" not in str(error)
            yield what, resumed(run, whole)
        else:
            yield f"{what}, and it ends all the same", resumed(run, whole)


def run_out_of_memory(whole: Whole, folder: Path, step: int = 1) -> Iterator[tuple[str, str | None]]:
    """A study for every ``step``-th pass, at which there is not enough memory, once.

    Yields:
        What was done, and what was lost; None for nothing.
    """

    def fail() -> None:
        raise torch.OutOfMemoryError("out of memory: injected")

    counter = Counter(None, fail)
    with passes(counter):
        study(folder / "passes").run()
    for at in range(0, counter.calls, step):
        run = folder / f"memory-{at}"
        what = f"pass {at} of {counter.calls} has not enough memory"
        try:
            with passes(Counter(at, fail)):
                study(run).run()
        except torch.OutOfMemoryError:
            yield f"{what}; it stops", resumed(run, whole)
        else:
            yield f"{what}; it goes on with less", None if same_answer(whole, run) else "the answer differs"


@contextmanager
def passes(counter: Counter) -> Iterator[None]:
    """Calls of the engine and of scoring are counted."""
    names: list[tuple[type, str]] = [
        (EmbedsEngine, "open"), (EmbedsEngine, "intact"), (EmbedsEngine, "judge"), (VisionLanguageModel, "embed"),
        (Batch, "losses"),
    ]  # fmt: skip
    patches = [mock.patch.object(owner, name, _method(counter, getattr(owner, name))) for owner, name in names]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _method(counter: Counter, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return counter.around(original)(self, *args, **kwargs)

    return method


def same_answer(whole: Whole, run: Path) -> bool:
    """Whether k* and the sets are the same: what goes through the model in halves is the same but for rounding."""
    result = result_of(run)
    found = [r["searched"]["neurons"] for r in (result, whole.result)]
    return found[0] == found[1] and all(result[n] == whole.result[n] for n in ("k_star", "stage1_k", "minimal_set"))


def fill(whole: Whole, folder: Path, count: int) -> Iterator[tuple[str, str | None]]:
    """Studies on a disk (a tmpfs) of ``count`` sizes that are too small; then it grows, and they go on.

    Raises:
        PermissionError: No file system can be mounted here.
    """
    study(folder / "size").run()
    need = sum(max(p.stat().st_size, 1) + 4096 for p in (folder / "size").rglob("*"))
    place = folder / "small"
    place.mkdir()
    for number in range(count):
        size = 8192 + (need - 8192) * number // count
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True).returncode:
            raise PermissionError("a tmpfs cannot be mounted here")
        try:
            what = f"a disk of {size:,} bytes"
            try:
                study(place / "run").run()
            except (OSError, LesionError) as error:
                assert "\n" not in str(error)
                subprocess.run(["mount", "-o", "remount,size=64M", place], check=True)
                yield what, resumed(place / "run", whole)
            else:
                yield f"{what} is enough", resumed(place / "run", whole)
        finally:
            subprocess.run(["umount", place], check=True)
