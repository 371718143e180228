"""Checksums of a run's files, so that what is read back is what was written.

``checksums.jsonl`` gets a line before a file is written. A process that dies in between leaves the file as it was, which is
why the checksum before the last is good too. Files without a line, such as a ``ranking.csv`` of one's own, are not checked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lesion.core.errors import RunError
from lesion.core.files import write_bytes
from lesion.core.journal import Journal

FILE = "checksums.jsonl"


class Checksums:
    """The checksums of a folder's files.

    Args:
        folder: The run directory.
        mend: Whether lines will be added (see :meth:`lesion.core.journal.Journal.read`).

    Raises:
        RunError: Their file is damaged.
    """

    def __init__(self, folder: Path, mend: bool = False) -> None:
        self._folder, self._journal = folder, Journal(folder / FILE)
        self._good: dict[str, list[str]] = {}
        for entry in self._journal.read(mend):
            self._add(entry["file"], entry["sha256"])

    def _add(self, name: str, digest: str) -> None:
        self._good[name] = [*self._good.get(name, [])[-1:], digest]

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        if self._good.get(name, [])[-1:] != [digest]:
            self._journal.append([{"file": name, "sha256": digest}])
            self._add(name, digest)
        (self._folder / name).parent.mkdir(exist_ok=True)
        write_bytes(self._folder / name, data)

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: It is not there.
            RunError: It is not what was written.
        """
        data = (self._folder / name).read_bytes()
        good = self._good.get(name)
        if good is not None and hashlib.sha256(data).hexdigest() not in good:
            raise RunError(f"{self._folder / name} is damaged (its checksum is another); delete it to have it made again")
        return data


def read_checked(path: Path) -> bytes:
    """A file's content, checked where its folder is a run directory.

    Raises:
        OSError: It cannot be read.
        RunError: It is not what was written.
    """
    return Checksums(path.parent).read(path.name)
