"""Whether a run directory can be made where it is wanted: asked before a model is loaded, which may take minutes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lesion.core.errors import RunError
from lesion.study.options import StudyOptions, check_text
from lesion.study.rundir import default_folder

_SHOWN = 200
"""Characters of a path that are repeated."""


def place_for(out: str | Path | None, options: StudyOptions, *words: str) -> Path:
    """The run directory that is wanted, or the one that is named after the options; raises as :func:`check_place`."""
    folder = default_folder(options, *words) if out is None else Path(out)
    check_place(folder if out is None else out)
    return folder


def check_place(out: str | Path) -> None:
    """Looks at the folder, or at the first one above it that is there.

    Raises:
        OptionError: The name is empty, or no text.
        RunError: It cannot be made or written. What is in it is for :class:`lesion.study.rundir.RunDirectory` to look at.
    """
    check_text("out", str(out))
    try:
        _check(Path(out))
    except OSError as error:
        shown = str(out) if len(str(out)) <= _SHOWN else f"{str(out)[:_SHOWN]}..."
        raise RunError(f"{shown} cannot be used as a run directory: {error.strerror}; choose another --out") from None


def _check(out: Path) -> None:
    place = _there(out)
    try:
        place.stat()
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "it is a link to nothing") from None
    if not place.is_dir():
        if place != out:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return
    # The kernel looks at the real user otherwise, which is another one in a program with rights of its own.
    rights = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    if not os.access(place, os.W_OK | os.X_OK, **rights):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _there(path: Path) -> Path:
    """The path, or the first one above it that is there."""
    try:
        path.lstat()
        return path
    except (FileNotFoundError, NotADirectoryError):
        return _there(path.parent)
