"""A :class:`Journal`: a file of JSON lines that only grows, in which each line carries its checksum.

A line is an object whose last field, ``crc``, is the CRC-32 of the line before that field was added. Any tool reads it as JSON
lines. What a process that died had written of its last line is dropped when the file is next added to; any other damage is
found, named and refused, so that a flipped bit on a disk does not become a result.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lesion.core.errors import RunError
from lesion.core.parsing import from_json

_SEPARATOR, _FIELD = b", ", b'"crc": "%s"}'


class Place(NamedTuple):
    """Where a line is in a file, in bytes."""

    start: int
    length: int


class Journal:
    """A file of JSON lines.

    Args:
        path: The file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, mend: bool = False) -> list[dict[str, Any]]:
        """All whole lines, without their checksums; arguments and errors as of :meth:`places`."""
        return [entry for _, entry in self.places(mend)]

    def places(self, mend: bool = False) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Where each whole line is, and what it says.

        Args:
            mend: Remove what is there of a line that was not finished, so that lines can be added. Only who holds the folder's
                lock may.

        Raises:
            RunError: A line is damaged.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        start = 0
        with file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                yield Place(start, len(line)), self._entry(number, line)
                start += len(line)
        if mend and start != self.path.stat().st_size:
            os.truncate(self.path, start)

    def at(self, place: Place) -> dict[str, Any]:
        """What a line says.

        Raises:
            RunError: It is damaged.
        """
        with self.path.open("rb") as file:
            file.seek(place.start)
            return self._entry(None, file.read(place.length))

    def _entry(self, number: int | None, line: bytes) -> dict[str, Any]:
        try:
            return _read(line.removesuffix(b"\n"))
        except ValueError:
            self.refuse(number)

    def refuse(self, number: int | None = None) -> NoReturn:
        """Raises a RunError, of a line that says nothing that can be used."""
        where = "a line" if number is None else f"line {number}"
        raise RunError(f"{self.path}: {where} is damaged; remove it to have it measured again") from None

    def append(self, entries: Sequence[Mapping[str, Any]]) -> list[Place]:
        """Adds a line for each, in one write, on the disk when this returns; all of them or none.

        Returns:
            Where each line is.

        Raises:
            OSError: They could not be written.
        """
        lines = [_line(entry) for entry in entries]
        with self.path.open("ab") as file:
            before = file.tell()
            try:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                _undo(self.path, before)
                raise
        starts = accumulate(map(len, lines), initial=before)
        return [Place(start, len(line)) for start, line in zip(starts, lines, strict=False)]


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, allow_nan=False, ensure_ascii=False).encode()
    return text[:-1] + (_SEPARATOR if entry else b"") + _FIELD % _checksum(text) + b"\n"


def _read(line: bytes) -> dict[str, Any]:
    length = len(_FIELD % _checksum(b""))
    text = line[:-length].removesuffix(_SEPARATOR) + b"}"
    if line[-length:] != _FIELD % _checksum(text):
        raise ValueError
    return from_json(text)


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _undo(path: Path, size: int) -> None:
    """Takes back what was written of lines; a disk that cannot even do that leaves it to :meth:`Journal.read`."""
    with suppress(OSError):
        os.truncate(path, size)
