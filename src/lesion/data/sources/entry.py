"""What a source says of one image, and under which names it says it."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lesion.core.errors import DataError
from lesion.data.sources.inside import kept

SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl", ".png", ".tif",
    ".tiff", ".webp",
})  # fmt: skip
"""What a file of an image ends in; of those that Pillow cannot read, it is said that it cannot."""
REFERENCE, CATEGORY, PROMPT = ("answer", "text", "caption", "captions", "txt"), ("category", "label"), ("prompt", "question")
"""The names that are read, in every kind of source; of those that are there, the first counts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that can be read, and what is known of it.

    Attributes:
        id: Unique within the data.
        image: The image's file, or what reads its bytes when called: an image inside a larger file has none of its own. None
            for a prompt without an image.
        category: None where there is none.
        reference: A true caption or answer.
        prompt: What is asked of this image instead of the study's prompt.
        inside: Every category that the image has something of, for choosing by category.
        root: The folder that the image's file may not leave by a link; None where no text names the file.
    """

    id: str
    image: Path | Callable[[], bytes] | None
    category: str | None = None
    reference: str | None = None
    prompt: str | None = None
    inside: frozenset[str] = frozenset()
    root: Path | None = None

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return readable(str(self.image)) if isinstance(self.image, Path) else self.id

    def open(self) -> Path | io.BytesIO:
        """What Pillow opens.

        Raises:
            OSError, ValueError: The bytes cannot be had, or there is no image.
        """
        if self.image is None:
            raise ValueError("there is no image")
        if not isinstance(self.image, Path):
            return io.BytesIO(self.image())
        return regular(self.image if self.root is None else kept(self.image, [self.root]))


def first(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """What a row says under the first of the names that says anything; of a list, its first item."""
    for name in names:
        value = row.get(name)
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
        if value is not None and not isinstance(value, Mapping) and str(value).strip():
            return readable(str(value))
    return None


def readable(text: str) -> str:
    """A name or a text that every file can hold: half characters, as of names that are no UTF-8, become ``\\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode()


def regular(file: Path) -> Path:
    """The file, if it can be read to its end.

    Raises:
        OSError: It is not there, or is a folder, or something that one could wait for without end, such as a pipe.
    """
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, and no file", str(file))
    return file


def is_folder(path: Path) -> bool:
    """Whether it is a folder; raises as :func:`present`."""
    return present(path) and path.is_dir()


def present(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        DataError: That cannot be told, or it is neither.
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            regular(path)
        return True
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        refuse(path, error)


def files_in(folder: Path) -> list[Path]:
    """Everything below a folder that is no folder, in one order on every machine.

    Folders that links lead to are read too, each once, so that no circle of links has no end.

    Raises:
        DataError: A folder cannot be read, and with it whatever is in it.
    """

    def stop(error: OSError) -> None:
        refuse(Path(error.filename or folder), error)

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        try:
            about = os.stat(root)
        except OSError as error:
            refuse(Path(root), error)
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        found += (Path(root, name) for name in files)
    return sorted(found)


def refuse(path: Path, error: Exception) -> NoReturn:
    """Raises what a user is told where the operating system refuses a path."""
    shown, why = readable(str(path))[:200], getattr(error, "strerror", None) or str(error)
    raise DataError(f"{shown} cannot be read: {why}; give another --data, or mend that") from None


def within(root: Path, suffix: str) -> list[tuple[str, Path]]:
    """The files of a kind in a folder with their names below it; or a file itself."""
    if not root.is_dir():
        return [(root.name, root)]
    found = [path for path in files_in(root) if path.suffix.lower() == suffix]
    return [(readable(path.relative_to(root).as_posix()), path) for path in found if present(path)]
