"""A few of each fault; ``python -m tests.faults`` injects all of them (docs/reliability.md has the figures)."""

from __future__ import annotations

import pytest

from tests.faults import broken, kills
from tests.faults.victim import Whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    made = Whole.made(tmp_path_factory.mktemp("faults") / "whole")
    assert made.result["k_star"] == 4 and made.result["searched"]["neurons"], "every stage has something to do"
    return made


def test_a_study_that_is_killed_at_any_moment_goes_on(whole, tmp_path):
    found = list(kills.kill(whole, tmp_path, count=3, seed=1))
    assert len(found) == 3 and sum("killed;" in what for what, _ in found) >= 2
    assert [(what, lost) for what, lost in found if lost is not None] == []


def test_a_write_a_flush_or_a_rename_that_fails_costs_nothing(whole, tmp_path):
    found = list(broken.fail_each(whole, tmp_path, step=31))
    assert len(found) >= 6
    assert [(what, lost) for what, lost in found if lost is not None] == []


def test_too_little_memory_costs_nothing(whole, tmp_path):
    found = list(broken.run_out_of_memory(whole, tmp_path, step=23))
    assert any("it stops" in what for what, _ in found) and any("goes on with less" in what for what, _ in found)
    assert [(what, lost) for what, lost in found if lost is not None] == []


def test_a_full_disk_costs_nothing(whole, tmp_path):
    try:
        found = list(broken.fill(whole, tmp_path, count=2))
    except PermissionError as error:
        pytest.skip(f"{error}, so no disk can be filled")
    assert len(found) == 2
    assert [(what, lost) for what, lost in found if lost is not None] == []


def test_what_is_lost_is_told(whole, tmp_path):
    """The harness sees a result that differs, an evaluation too few, and a line that was changed."""
    run = tmp_path / "run"
    Whole.made(run)
    assert whole.lost(run, b"") is None
    path = run / "evaluations.jsonl"
    lines = path.read_bytes()
    assert whole.lost(run, b'{"key": "x"}\n') == "finished evaluations were changed"
    path.write_bytes(lines + lines.splitlines(keepends=True)[0])
    assert whole.lost(run, b"") == "an evaluation was repeated"
    path.write_bytes(b"".join(lines.splitlines(keepends=True)[:-1]))
    assert "evaluations instead of" in (whole.lost(run, b"") or "")
    path.write_bytes(lines)
    result = run / "result.json"
    result.write_text(result.read_text().replace('"k_star": 4', '"k_star": 5'))
    assert whole.lost(run, b"") == "the result differs"
