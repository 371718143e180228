"""The journal: what a process that died leaves is mended, any other damage is named, and a full disk takes nothing away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.core.errors import RunError
from lesion.core.journal import Journal

ENTRIES: list[dict[str, Any]] = [{"key": "a", "nll": [0.5, None]}, {}, {"key": "né\n", "crc": "x"}]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "lines.jsonl")
    made.append(ENTRIES[:1])
    made.append(ENTRIES[1:])
    return made


def test_what_was_added_is_read(journal):
    assert journal.read() == ENTRIES and Journal(journal.path.parent / "none").read() == []


def test_a_line_is_found_where_it_was_put(journal):
    places = [place for place, _ in journal.places()]
    assert [journal.at(place) for place in places] == ENTRIES
    [added] = journal.append([{"key": "d"}])
    assert journal.at(added) == {"key": "d"} and [p for p, _ in journal.places()] == [*places, added]
    journal.path.write_bytes(journal.path.read_bytes().replace(b'"d"', b'"e"'))
    with pytest.raises(RunError, match="a line is damaged"):
        journal.at(added)


def test_any_reader_of_json_lines_reads_it(journal):
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [line | {"crc": ""} for line in lines] == [entry | {"crc": ""} for entry in ENTRIES]


def test_every_cut_leaves_the_lines_before_it(journal):
    whole = journal.path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        journal.path.write_bytes(whole[:length])
        kept = sum(end <= length for end in ends)
        assert journal.read() == ENTRIES[:kept] and len(journal.path.read_bytes()) == length, "reading changes nothing"
        assert journal.read(mend=True) == ENTRIES[:kept]
        journal.append(ENTRIES[kept:])
        assert journal.path.read_bytes() == whole


def test_every_flipped_bit_of_a_whole_line_is_named(journal):
    whole = journal.path.read_bytes()
    for place in range(len(whole) - 1):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            journal.path.write_bytes(flipped)
            with pytest.raises(RunError, match=r"lines\.jsonl: line \d is damaged; remove it"):
                journal.read()


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text())))
def test_whatever_json_holds_comes_back(tmp_path_factory, entries):
    journal = Journal(tmp_path_factory.mktemp("journal") / "lines.jsonl")
    journal.append(entries)
    assert journal.read() == entries


@pytest.mark.parametrize("name", ["fsync", "write"])
def test_what_cannot_be_written_whole_is_not_there(journal, monkeypatch, name):
    before = journal.path.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    if name == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "open", lambda *_: HalfFull(journal.path))
    with pytest.raises(OSError, match="No space"):
        journal.append([{"key": "b" * 100}])
    monkeypatch.undo()
    assert journal.path.read_bytes() == before
    journal.append([{"key": "c"}])
    assert journal.read() == [*ENTRIES, {"key": "c"}]


class HalfFull:
    """A file on a disk that is full behind ten bytes."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> HalfFull:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: bytes) -> None:
        self._file.write(data[:10])
        self._file.flush()
        raise OSError(28, "No space left on device")


def test_nan_is_never_written(journal):
    before = journal.path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append([{"key": float("nan")}])
    assert journal.path.read_bytes() == before
