"""What every case of bad input is checked for: one line that helps, exit code 2, and a file tree that is as it was.

A case is a row of a table: its name, what makes its files, a command, and what the line says. The files are made in an empty
folder, in which the command is run, so that commands name them as a user would.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shlex
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel
from typer.testing import CliRunner

from lesion.cli.app import app

GAP = " ... "
"""Between the parts of what a line says: anything may stand there."""
HELPS = re.compile(r"expected|available|should (be|have)|known:|give --|needs --|; ")
"""A line that only says what is wrong has none of these; behind them stands what was expected, or what to do."""
PROGRESS = re.compile(r"\[\d\d:\d\d:\d\d\] ")
"""How a line begins that says how far it is."""
LONGEST = 1500
"""Characters of a line; what a user gave is not repeated whole, however long it was."""

Make = Callable[[Path], object]


def nothing(folder: Path) -> None:
    """For commands that need no files."""


@dataclass(frozen=True)
class Case:
    """One thing that a user can get wrong.

    Attributes:
        name: Of the case.
        make: Makes its files in an empty folder.
        command: What is run there, without ``lesion``.
        says: Parts of the line in their order, with :data:`GAP` between them; ``{folder}`` is the folder's path.
        warned: Parts of the warnings before it, each a line.
        loads: Whether weights may be read before it is noticed. Most things are noticed earlier.
        exactly: The words of the command, where a shell could not write them.
        touches: Files that a start of a study writes, even one that fails later.
    """

    name: str
    make: Make
    command: str
    says: str
    warned: Sequence[str] = ()
    loads: bool = False
    exactly: Sequence[str] = ()
    touches: Sequence[str] = ()

    @property
    def words(self) -> list[str]:
        return [*shlex.split(self.command), *self.exactly]


def table(cases: Sequence[Case | Any]) -> pytest.MarkDecorator:
    """Runs a test once for each case; a case may be wrapped in ``pytest.param`` with its marks."""
    rows: list[Any] = [pytest.param(case) if isinstance(case, Case) else case for case in cases]
    return pytest.mark.parametrize("case", [pytest.param(*r.values, marks=r.marks, id=r.values[0].name) for r in rows])


def check(case: Case, folder: Path, capfd: pytest.CaptureFixture[str], around: Any = None) -> str:
    """Runs a case.

    Args:
        case: The case.
        folder: Empty, or with what several cases share.
        capfd: Sees what libraries write past the command line.
        around: A context in which the command is run, such as a disk that is full.

    Returns:
        The line.
    """
    case.make(folder)
    before = tree(folder)
    capfd.readouterr()
    with chdir(folder), loaded() as weights, warnings.catch_warnings(record=True) as said, around or nullcontext():
        warnings.simplefilter("always")
        result = CliRunner().invoke(app, case.words)
    past = capfd.readouterr()
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.output, repr(result.exception))
    assert result.stdout == "" and past == ("", ""), (result.stdout, past)
    assert not [w for w in said if shown(w)], [str(w.message) for w in said]
    line = the_line(result.stderr, case.warned)
    says(line, case.says.replace("{folder}", str(folder)))
    after = tree(folder)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)} - set(case.touches)
    assert not changed, f"files were made, changed or lost: {', '.join(sorted(changed))}"
    assert case.loads or not weights, "the weights of a model were read for nothing"
    return line


def the_line(stderr: str, warned: Sequence[str] = ()) -> str:
    """The one line of standard error, behind as many warnings as there should be."""
    assert "Traceback" not in stderr
    *first, line = [line for line in stderr.splitlines() if PROGRESS.match(line) is None]
    assert all(one.startswith("warning: ") for one in first), stderr
    assert len(first) == len(warned) and all(part in one for part, one in zip(warned, first, strict=True)), stderr
    assert line.startswith("lesion: ") and len(line) <= LONGEST and line.isprintable(), repr(line[:LONGEST])
    assert HELPS.search(line), f"what is to be done? {line}"
    return line


def says(line: str, wanted: str) -> None:
    """Whether the parts of what was wanted stand in a line, one behind the other."""
    at = 0
    for part in wanted.split(GAP):
        found = line.find(part, at)
        assert found >= 0, f"{part!r} is not (there) in: {line}"
        at = found + len(part)


def shown(warning: warnings.WarningMessage) -> bool:
    """Whether Python would print a warning for its users."""
    hidden = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
    return not issubclass(warning.category, hidden)


def tree(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder: its kind and mode, and its content or where it points."""
    seen: dict[str, tuple[Any, ...]] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            about = path.lstat()
            content: Any = None
            if path.is_symlink():
                content = os.readlink(path)
            elif stat.S_ISREG(about.st_mode):
                content = about.st_size, hashlib.sha256(path.read_bytes()).hexdigest() if about.st_size < 2**24 else None
            seen[os.path.relpath(path, folder)] = about.st_mode, about.st_ino, content
    return seen


@contextmanager
def loaded() -> Iterator[list[str]]:
    """The classes of the models whose weights are read in the meantime."""
    names: list[str] = []
    read = PreTrainedModel.from_pretrained.__func__  # pyright: ignore[reportFunctionMemberAccess]

    def see(kind: type[PreTrainedModel], *arguments: Any, **options: Any) -> Any:
        names.append(kind.__name__)
        return read(kind, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "from_pretrained", classmethod(see))
        yield names


# -- a user who may not do everything ----------------------------------------------------------------------------------
_READ_ALL, _SEARCH_ALL = 1, 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of Linux: what lets root read and write whatever a file's mode says."""


@contextmanager
def as_anybody() -> Iterator[None]:
    """Modes of files hold for this thread, even if it is root's; skips the test where that cannot be had."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may read and write every file here")
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        pytest.skip("root's rights cannot be read here")
    before = data[0]
    data[0] = before & ~(1 << _READ_ALL | 1 << _SEARCH_ALL)
    if libc.capset(header, data) != 0:
        pytest.skip("root's rights cannot be given up for a while here")
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0
