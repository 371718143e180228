"""A study of tiny-llava that collapses in seconds, and what must be the same however it was computed."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lesion.core.journal import Journal
from lesion.study.rundir import EVALUATIONS, RESULT

OPTIONS: dict[str, Any] = {
    "data": "questions", "samples": 16, "controls": 2, "max_new_tokens": 2, "clip": "none", "batch_size": 4, "threads": "1",
}  # fmt: skip
"""Eight samples are measured on, in two units of four."""


def words(options: dict[str, Any] = OPTIONS) -> list[str]:
    """As on the command line."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def answer(run: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """``result.json`` but for where it is."""
    left_out = {"run", *without}
    return {name: value for name, value in json.loads((run / RESULT).read_text()).items() if name not in left_out}


def lines(run: Path) -> dict[str, Any]:
    """What was measured, by its key; each once."""
    read = Journal(run / EVALUATIONS).read()
    made = {entry["key"]: entry for entry in read}
    assert len(made) == len(read), "nothing is measured twice"
    return made


def check_same(run: Path, serial: Path, without: Collection[str] = ()) -> None:
    """Whether a run has the answer of another, and measured the same where both did: one that asks ahead asks more."""
    mine, theirs = answer(run, without), answer(serial, without)
    assert mine == theirs, [name for name in mine if mine[name] != theirs[name]]
    mine, theirs = lines(run), lines(serial)
    for key in mine.keys() & theirs.keys():
        assert mine[key] == theirs[key]
