"""What a run reads back is what it wrote, whatever happened in between."""

from __future__ import annotations

import os

import pytest

from lesion import Result
from lesion.core.errors import RunError
from lesion.study.checksums import FILE, Checksums, read_checked
from tests import results


def test_what_was_written_is_read(tmp_path):
    Checksums(tmp_path, mend=True).write("a.json", b"1")
    assert Checksums(tmp_path).read("a.json") == b"1" == read_checked(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        Checksums(tmp_path).read("b.json")


def test_every_flipped_bit_is_found(tmp_path):
    Checksums(tmp_path).write("a.json", b"12")
    for bit in range(16):
        (tmp_path / "a.json").write_bytes((int.from_bytes(b"12") ^ 1 << bit).to_bytes(2))
        with pytest.raises(RunError, match=r"a\.json is damaged \(its checksum is another\); delete it"):
            Checksums(tmp_path).read("a.json")


def test_the_file_before_the_last_is_good_too(tmp_path, monkeypatch):
    """A process that dies between the checksum and the file leaves the old one."""
    sums = Checksums(tmp_path)
    sums.write("a.json", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sums.write("a.json", b"new")
    monkeypatch.undo()
    assert Checksums(tmp_path).read("a.json") == b"old"
    sums.write("a.json", b"new")
    sums.write("a.json", b"newer")
    (tmp_path / "a.json").write_bytes(b"old")
    with pytest.raises(RunError, match="is damaged"):
        Checksums(tmp_path).read("a.json")


def test_the_same_again_adds_no_line(tmp_path):
    sums = Checksums(tmp_path)
    for data in (b"1", b"1", b"2"):
        sums.write("a.json", data)
    assert len((tmp_path / FILE).read_text().splitlines()) == 2


def test_a_file_of_ones_own_is_not_checked(tmp_path):
    (tmp_path / "ranking.csv").write_text("mine")
    assert Checksums(tmp_path).read("ranking.csv") == b"mine"


def test_a_changed_result_is_not_shown(tmp_path):
    results.save(results.result(), tmp_path)
    data = (tmp_path / "result.json").read_bytes()
    Checksums(tmp_path).write("result.json", data)
    assert Result.load(tmp_path).k_star is not None
    (tmp_path / "result.json").write_bytes(data.replace(b'"k_star"', b'"k_stop"'))
    with pytest.raises(RunError, match="is damaged"):
        Result.load(tmp_path)
