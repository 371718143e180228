"""The report of a model that lesion changed shows what was found before beside what is found now."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from lesion.cli.show_study import show_result
from lesion.report.html import report
from lesion.report.view import View
from lesion.study.origin import FILE, Origin
from lesion.study.remedied import before_of, compared
from tests.report.pages import plain, run


def origin(tmp_path: Path, **before: object) -> Origin:
    """Of a model that was studied just as it is now."""
    found = before_of(run(tmp_path / "before").result).model_copy(update=before)
    return Origin(did="4 units split into 4 each", model="made-up", neurons=4, before=found)


def test_the_report_and_the_terminal_show_both(tmp_path: Path):
    made = run(tmp_path, origin=origin(tmp_path, k_star=2, neurons_total=9), k_star_ci=(4, 4))
    text = plain(report([made]))
    assert "Before and after" in text and "made-up after lesion changed it: 4 units split into 4 each." in text
    assert "k*24 neurons scored9400" in text and "not asked the same" not in text
    console = Console(width=400, record=True)
    show_result(made.result, console)
    assert "remedy: 4 units split into 4 each: k* 2 before, 4 now; neurons scored 9 before" in console.export_text()
    assert "Before and after" not in plain(report([run(tmp_path / "plain")])), "nothing was done to this one"


def test_what_was_asked_differently_is_said(tmp_path: Path):
    made = run(tmp_path, origin=origin(tmp_path, role="hidden", samples=99, k_star=None, found=3))
    rows, differing = compared(made.result.origin, made.result)  # pyright: ignore[reportArgumentType]
    assert rows[0] == ("k*", "none up to 6", "4") and ("set found by measuring", "3", "not measured") in rows
    assert differing == [
        f"role was hidden and is {made.result.role}", f"samples was 99 and is {made.result.samples}"
    ]  # fmt: skip
    assert "The two were not asked the same: role was hidden" in plain(report([made]))


def test_neurons_from_a_file_have_no_study_before(tmp_path: Path):
    made = run(tmp_path, origin=origin(tmp_path).model_copy(update={"before": None}))
    assert "What a study found before is not known" in plain(report([made]))
    assert View(made.result, tmp_path, "r").more.remedied == ([], [])


@pytest.mark.parametrize("text", [None, "", "{", '{"format": "lesion-origin-2"}', '{"did": 1}', "\0"])
def test_a_folder_without_one_has_no_origin(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert Origin.read(str(tmp_path)) is None and Origin.read("a/hub-id") is None


def test_it_is_read_as_it_was_written(tmp_path: Path):
    wanted = origin(tmp_path / "runs")
    wanted.write(tmp_path)
    assert Origin.read(str(tmp_path)) == wanted
