"""What a log, a terminal and a machine are told of how far a command is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lesion.cli import progress
from lesion.cli.progress import Bars, Both, Clock, Events, Lines, duration, listener
from lesion.core.errors import OptionError


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(progress, "time", made)
    return made


def lines_of(text: io.StringIO) -> list[str]:
    """Without the time of day."""
    return [line.split("] ", 1)[-1] for line in text.getvalue().splitlines()]


def test_a_log_gets_a_line_a_stage_and_then_one_in_thirty_seconds(time):
    text = io.StringIO()
    lines = Lines(Console(file=text, width=40))
    with lines.stage("scoring neurons", 100) as advance:
        for _ in range(50):
            time.now += 1.3
            advance(1)
    assert lines_of(text) == [
        "scoring neurons (100)", "scoring neurons: 24 of 100 in 31 s, about 99 s left",
        "scoring neurons: 48 of 100 in 62 s, about 68 s left",
    ]  # fmt: skip


def test_the_last_points_of_the_curve_are_on_it(time):
    text = io.StringIO()
    lines = Lines(Console(file=text, width=40))
    with lines.stage("masking the top k", None) as advance:
        for k, perplexity, decision in ((1, 2.5, "standing"), (4, None, "collapsed")):
            lines.point(k, perplexity, decision)
        time.now += 7200
        advance(2)
    assert lines_of(text)[1] == (
        "masking the top k: 2 done in 2.0 h; k = 1: perplexity 2.5, standing; k = 4: perplexity not finite, collapsed"
    )


def test_a_warning_stands_out_and_is_no_markup():
    text = io.StringIO()
    Lines(Console(file=text, width=40)).warn("[red]x")
    assert text.getvalue() == "warning: [red]x\n"


def test_a_terminal_shows_a_bar_with_the_points(monkeypatch):
    text = io.StringIO()
    bars = Bars(Console(file=text, force_terminal=True, width=120))
    with bars.stage("masking [k]", 4) as advance:
        bars.point(4, 30.5, "collapsed")
        advance(2)
        bars.warn("careful")
    assert "masking [k]; k = 4: perplexity 30.5, collapsed" in text.getvalue() and "2/4" in text.getvalue()
    bars.point(5, 1.0, "standing")  # behind the stage nothing is drawn


def test_machines_get_json(time, tmp_path):
    file = tmp_path / "log.jsonl"
    both = Both(Lines(Console(file=io.StringIO())), Events(file))
    with both.stage("scoring", 10) as advance:
        time.now += 0.5
        advance(1)
        time.now += 1.5
        advance(4)
    both.point(4, None, "collapsed")
    both.warn("careful")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(event.pop("time").count(":") >= 2 for event in events) and events[0].pop("pid") > 0
    assert events == [
        {"event": "begin"}, {"event": "stage", "stage": "scoring", "total": 10},
        {"event": "progress", "stage": "scoring", "done": 5, "total": 10, "seconds_left": 2.0},
        {"event": "stage done", "stage": "scoring", "done": 5, "seconds": 2.0},
        {"event": "point", "k": 4, "ppl_reference": None, "decision": "collapsed"}, {"event": "warning", "text": "careful"},
    ]  # fmt: skip


def test_a_log_that_cannot_be_written_is_said_before_anything_runs(tmp_path):
    with pytest.raises(OptionError, match=r"--log-json .* cannot be written \(Is a directory\); expected a file"):
        listener(Path(tmp_path))


@pytest.mark.parametrize(("seconds", "words"), [(3, "3 s"), (150, "2 min"), (5900, "98 min"), (9000, "2.5 h")])
def test_durations_are_said_as_people_do(seconds, words):
    assert duration(seconds) == words


def test_without_a_step_nothing_is_foretold(time):
    assert Clock("x", 10).left is None and Clock("x", None).left is None
