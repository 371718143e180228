"""Where nothing can be written or read: files in the place of folders, names that are too long, rights, a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lesion.cli.app import app
from tests import results
from tests.bad_input.checker import Case, as_anybody, nothing, table

SMALL = "--samples 2 --max-k 1 --controls 0 --max-new-tokens 4 --clip none"
NO_CLIP = ("no CLIP score",)
LONG, LONGER = "x" * 300, "/".join(["y" * 200] * 25)


def put(name: str) -> Callable[[Path], object]:
    """Makes a file."""
    return lambda folder: (folder / name).write_text("mine")


def link(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(to)


def run(folder: Path) -> None:
    """Makes a finished run."""
    results.save(results.result(), folder / "run")


OUT = f"study {SMALL} --out"
IS_FILE = "is a file; expected a folder, or a name that is not there yet"
CASES = [
    # -- run directories -----------------------------------------------------------------------------------------------
    Case("out is a file", put("run"), f"{OUT} run", f"run {IS_FILE}"),
    Case("out is below a file", put("a"), f"{OUT} a/run",
         "a/run cannot be used as a run directory: Not a directory; choose another"),
    Case("out is a device", nothing, f"{OUT} /dev/null", f"/dev/null {IS_FILE}"),
    Case("out is a link to a file", lambda f: (put("a")(f), link("run", "a")(f)), f"{OUT} run", f"run {IS_FILE}"),
    Case("out is a link to itself", link("run", "run"), f"{OUT} run", "run cannot be used as a run directory: Too many levels"),
    Case("out is a link to nothing", link("run", "gone/there"), f"{OUT} run",
         "run cannot be used as a run directory: it is a link to nothing"),
    Case("out has a name that is too long", nothing, f"{OUT} {LONG}",
         "xxx... cannot be used as a run directory: File name too long; choose"),
    Case("out is too deep", nothing, f"{OUT} {LONGER}", "yyy... cannot be used as a run directory: File name too long; choose"),
    Case("out has a zero byte", nothing, OUT, "out is 'a\\x00b', which is no text in UTF-8", exactly=("a\0b",)),
    Case("out is a folder of mine", lambda f: (f / "run").mkdir() or (f / "run" / "mine").write_text("x"), f"{OUT} run",
         "run is not empty and holds no study; choose another --out"),
    Case("out is here", put("mine"), f"{OUT} .", ". is not empty and holds no study; choose another --out"),
    Case("a configuration that is a folder", lambda f: (f / "run" / "config.yaml").mkdir(parents=True), f"{OUT} run",
         "run/config.yaml: Is a directory; mend that"),
    Case("ranks into a file", put("run"), "ranks tiny-llava --samples 2 --out run", f"run {IS_FILE}"),
    Case("check-known into a file", put("run"), "check-known tiny-llava --samples 2 --out run", f"run {IS_FILE}"),
    Case("the paper into a file", put("run"), f"paper tiny-llava --quick {SMALL} --out run",
         "run/tiny-llava cannot be used as a run directory: Not a directory"),
    # -- reports -------------------------------------------------------------------------------------------------------
    Case("a report with a name that is too long", run, f"report run --out {LONG}", "File name too long"),
    Case("a report below a file", lambda f: (run(f), put("a")(f)), "report run --out a/r.html",
         "a/r.html cannot be written: Not a dir"),
    Case("a report with a zero byte", run, "report run --out", "out is 'a\\x00b', which is no text", exactly=("a\0b",)),
    # -- what is read --------------------------------------------------------------------------------------------------
    Case("data with a name that is too long", nothing, f"study --data {LONG} --out run",
         "xxx cannot be read: File name too long; give"),
    Case("data that are too deep", nothing, f"study --data {LONGER} --out run", "yyy cannot be read: File name too long; give"),
    Case("data that link to themselves", link("d", "d"), "study --data d --out run",
         "d cannot be read: Too many levels ... give another"),
    Case("data that are a device", nothing, "study --data /dev/zero --out run",
         "/dev/zero cannot be read: it is a device or a pipe"),
    Case("data that are a pipe", lambda f: os.mkfifo(f / "d"), "study --data d --out run",
         "d cannot be read: it is a device or a pipe"),
    Case("data that are a file", put("d"), "study --data d --out run", "d is not a folder; expected a folder of images"),
    Case("a model with a name that is too long", nothing, f"sites {LONG}", "xxx cannot be read: File name too long; mend that"),
    Case("a model that is too deep", nothing, f"sites {LONGER}", "yyy cannot be read: File name too long; mend that"),
    Case("a model that links to itself", link("m", "m"), "sites m", "no model 'm': not a folder ... expected one of these"),
    Case("a model that is a device", nothing, "sites /dev/zero",
         "no model '/dev/zero': not a folder ... expected one of these"),
    Case("a run with a name that is too long", nothing, f"show {LONG}", "File name too long"),
    Case("a run that links to itself", link("r", "r"), "show r",
         "r cannot be read (Too many levels of symbolic links); expected the run"),
    Case("neurons with a name that is too long", nothing, f"study --neurons {LONG}.json --out run",
         "cannot be read ... too long; expected"),
    Case("an image with a name that is too long", nothing, f"try tiny-llava {LONG}.png --run run",
         "cannot be read as an image (File name"),
    Case("a criterion with a name that is too long", nothing, f"study --criterion {LONG}.yaml --out run",
         "cannot be read: File name too"),
    Case("a log that is a folder", lambda f: (f / "log").mkdir(), f"{OUT} run --log-json log",
         "--log-json log cannot be written (Is a"),
    Case("a log in no folder", nothing, f"{OUT} run --log-json none/log",
         "--log-json none/log cannot be written (No such file"),
]  # fmt: skip


@table(CASES)
def test_a_path_that_cannot_be_used_is_named(check: Callable[..., str], case: Case):
    check(case)


def locked(mode: int, *names: str) -> Callable[[Path], object]:
    """Makes a folder, perhaps with a finished run in it, that may not be written or searched."""

    def make(folder: Path) -> None:
        (folder / "here").mkdir()
        for name in names:
            results.save(results.result(), folder / "here" / name)
        (folder / "here").chmod(mode)

    return make


RIGHTS = [
    Case("a folder that may not be written", locked(0o555), f"{OUT} here/run",
         "here/run cannot be used as a run directory: Permission denied"),
    Case("a folder that may not be searched", locked(0o000), f"{OUT} here/run",
         "here/run cannot be used as a run directory: Permission"),
    Case("a report where nothing may be written", locked(0o555, "run"), "report here/run --out here/r.html",
         "here/r.html cannot be written: Permission denied; give another --out"),
    Case("a run where nothing may be searched", locked(0o000, "run"), "show here/run", "Permission denied"),
    Case("a log where nothing may be written", locked(0o555), f"{OUT} run --log-json here/log",
         "--log-json here/log cannot be written"),
]  # fmt: skip


@table(RIGHTS)
def test_what_may_not_be_written_is_named(check: Callable[..., str], case: Case, tmp_path: Path):
    try:
        check(case, as_anybody())
    finally:
        (tmp_path / "here").chmod(0o700)


# -- a full disk -------------------------------------------------------------------------------------------------------
@contextmanager
def full_disk(after: int = 0) -> Iterator[None]:
    """No file can be flushed to the disk, as when there is no room for it; the first few still can."""
    left, flush = after, os.fsync

    def fsync(file: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def test_a_report_on_a_full_disk_leaves_nothing(check: Callable[..., str]):
    check(
        Case("full", run, "report run --out r.html", "r.html cannot be written: No space left on device; give another --out"),
        full_disk(),
    )


def test_a_study_on_a_full_disk_leaves_nothing(check: Callable[..., str]):
    check(Case("full", nothing, f"{OUT} run", "No space left on device; ", NO_CLIP, loads=True), full_disk())


def test_a_disk_that_is_full_later_keeps_what_was_measured(tmp_path: Path, tiny: Path):
    """Whatever is there then is whole, and the same command goes on with it."""
    shutil.copytree(tiny, tmp_path / "model")
    command = f"study {tmp_path / 'model'} {SMALL} --out {tmp_path / 'run'}"
    with full_disk(9):
        stopped = CliRunner().invoke(app, command.split())
    assert stopped.exit_code == 2 and "No space left on device" in stopped.stderr.splitlines()[-1]
    assert "Traceback" not in stopped.stderr and not list((tmp_path / "run").glob(".*.json.*"))
    assert CliRunner().invoke(app, command.split()).exit_code == 0


# -- the cache of packaged models --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "cache", "line"),
    [
        (put("a"), "a", "nothing can be written to a (File exists); set LESION_CACHE to another folder"),
        (put("a"), "a/b", "nothing can be written to a/b (Not a directory); set LESION_CACHE to another folder"),
        (nothing, LONG, "File name too long; "), (link("a", "a"), "a", "a ( ... ); set LESION_CACHE to another folder"),
    ],
    ids=["a file", "below a file", "too long", "a link to itself"],
)  # fmt: skip
def test_a_cache_that_cannot_be_used(
    check: Callable[..., str], monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], cache: str, line: str
):
    monkeypatch.setenv("LESION_CACHE", cache)
    check(Case("cache", make, "sites smollm2", line))
