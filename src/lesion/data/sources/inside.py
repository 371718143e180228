"""Files that another file names: none but those below a folder.

What names them may come from anyone, and the pictures of a study end up in its report: so a line of JSON cannot have a picture
of yours read that lies elsewhere. What lies in a folder that you name yourself is read as it is, links too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def named(root: Path, name: str) -> Path:
    """The file of a name, without a look at the disk.

    Raises:
        ValueError: It is not below the folder; in words.
    """
    path, top = Path(name), root.absolute()
    if path.is_absolute() and path.is_relative_to(top):
        path = path.relative_to(top)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not below {root}")
    return root / path


def kept(file: Path, roots: Iterable[Path]) -> Path:
    """The file, if no link on the way leads out of the folders.

    Raises:
        OSError, ValueError: One does; in words.
    """
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(os.path.realpath(place)) for root in roots for place in (root, *_blobs(root))):
        raise ValueError("a link leads out of its folder")
    return file


def _blobs(root: Path) -> list[Path]:
    """Where the hub's cache keeps the files that a snapshot in it has links to."""
    top = root.absolute()
    return [place.parent.parent / "blobs" for place in (top, *top.parents) if place.parent.name == "snapshots"][:1]
