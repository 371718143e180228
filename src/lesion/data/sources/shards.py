"""Webdataset shards: tar files in which files of one key are one sample. Only headers and texts are read of them at first."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from lesion.core.errors import DataError
from lesion.data.sources.entry import CATEGORY, PROMPT, REFERENCE, SUFFIXES, Entry, first, present, readable, within

TAR = ".tar"
_TEXTS = ("txt", "text", "caption")
_LONGEST = 2**24
"""Bytes of a text; a few bytes of a tar file can claim to be terabytes of zeros."""


def webdataset(root: Path) -> list[Entry]:
    """A shard, or all of a folder; an id is ``SHARD/KEY``.

    Raises:
        DataError: No such file, one that is no tar (or cut off), no image in them, or a text that cannot be read.
    """
    if not present(root):
        raise DataError(f"{root} is not a file; expected a tar file")
    made: list[Entry] = []
    for name, file in within(root, TAR):
        try:
            made += _shard(file, name)
        except (OSError, tarfile.TarError, ValueError, EOFError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise DataError(f"{file} cannot be read as a tar file: {why}; expected one that is whole and not packed") from None
    if not made:
        endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"{root} has no image; expected KEY.jpg with KEY.txt or KEY.json ({endings}) in its tar files")
    return made


def _shard(file: Path, name: str) -> list[Entry]:
    made = []
    with file.open("rb") as opened, tarfile.open(fileobj=cast("BinaryIO", _Bounded(opened)), mode="r:") as tar:
        for key, members in _by_key(tar).items():
            image = _image(members)
            if image is None:
                continue
            about = _about(tar, file, members)
            # A member of a tar that is not packed lies in it as it is, so it can be read later without the archive's index.
            read = partial(_slice, file, image.offset_data, image.size)
            texts = first(about, CATEGORY), first(about, REFERENCE), first(about, PROMPT)
            made.append(Entry(f"{name}/{readable(key)}", read, *texts))
    return made


class _Bounded:
    """A file that is asked for no more than it has: tarfile would make room for whatever size a head claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._file.tell(), 0)
        return self._file.read(left if size < 0 else min(size, left))


def _by_key(tar: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Key -> ending -> member. A key ends at the first dot of the file's name, as webdataset has it."""
    by_key: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        path = PurePosixPath(member.name)
        stem, dot, ending = path.name.partition(".")
        if member.isfile() and stem and dot:
            by_key.setdefault(path.with_name(stem).as_posix(), {})[ending.lower()] = member
    return by_key


def _image(members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """``KEY.jpg`` before ``KEY.mask.png``."""
    endings = sorted((e for e in members if "." + e.rpartition(".")[2] in SUFFIXES), key=lambda e: (e.count("."), e))
    return members[endings[0]] if endings else None


def _about(tar: tarfile.TarFile, file: Path, members: dict[str, tarfile.TarInfo]) -> dict[str, Any]:
    """``KEY.json``'s object, with the texts that have files of their own."""
    texts = dict(_texts(tar, file, members, ("json", "cls", *_TEXTS)))
    try:
        about = json.loads(texts.pop("json", "{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {members['json'].name} is not JSON: {error}; expected an object") from None
    if not isinstance(about, dict):
        raise DataError(f"{file}: expected an object in {members['json'].name}; found {str(about)[:60]}")
    if "cls" in texts:
        about.setdefault("label", texts.pop("cls"))
    return {**about, **texts}


def _texts(
    tar: tarfile.TarFile, file: Path, members: dict[str, tarfile.TarInfo], endings: Iterable[str]
) -> Iterable[tuple[str, str]]:
    for ending in endings:
        if ending in members:
            if members[ending].size > _LONGEST:
                raise DataError(f"{file}: {members[ending].name} is no text: expected at most {_LONGEST:,} bytes")
            content = tar.extractfile(members[ending])
            try:
                yield ending, content.read().decode("utf-8-sig").strip() if content else ""
            except UnicodeDecodeError as error:
                raise DataError(f"{file}: {members[ending].name} is no text: {error}; expected UTF-8") from None


def _slice(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return _Bounded(opened).read(size)
