"""``--debug`` shows where an error comes from; without it no command does. The commands as processes of their own, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lesion.cli.app import app
from tests.bad_input.checker import the_line, tree

FAILS = ["study", "--out", "run", "--criterion", "nowhere.yaml"]


def run(*words: str):
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("words", [["--debug", *FAILS], [*FAILS, "--debug"]], ids=["before", "behind"])
def test_debug_shows_the_traceback_and_the_line(words: list[str]):
    plain, shown = run(*FAILS), run(*words)
    assert plain.exit_code == shown.exit_code == 2
    line = the_line(plain.stderr)
    assert shown.stderr.splitlines()[-1] == line
    # The library's own error, and the line of lesion's code that made a message of it.
    for part in ("Traceback (most recent call last)", "FileNotFoundError", "in _criterion", "lesion.core.errors.OptionError"):
        assert part in shown.stderr, part


def test_debug_is_of_one_command_alone():
    assert "Traceback" in run("--debug", *FAILS).stderr
    assert "Traceback" not in run(*FAILS).stderr


def test_debug_says_nothing_where_nothing_is_wrong():
    plain, shown = run("sites", "tiny-llava"), run("sites", "tiny-llava", "--debug")
    assert (
        (plain.exit_code, plain.stdout, plain.stderr) == (shown.exit_code, shown.stdout, shown.stderr) == (0, plain.stdout, "")
    )


def test_every_command_has_it():
    group: Any = typer.main.get_command(app)
    below = [command for inner in group.commands.values() for command in getattr(inner, "commands", {"": inner}).values()]
    for command in (group, *below):
        assert "--debug" in {name for parameter in command.params for name in parameter.opts}, command.name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["study", "--samples", "0"], "samples is 0"), (["studio"], "see python -m lesion.cli --help"),
        ([b"show", b"\xff"], "run is '\\udcff', which is no text"),
    ],
    ids=str,
)  # fmt: skip
def test_a_process_of_its_own_says_one_line(tmp_path: Path, words: list[str | bytes], says: str):
    """With what the libraries print where nothing of theirs is caught."""
    done = subprocess.run([sys.executable, "-m", "lesion.cli", *words], cwd=tmp_path, capture_output=True, env=os.environ)
    assert (done.returncode, done.stdout) == (2, b"")
    assert says in the_line(done.stderr.decode())
    assert tree(tmp_path) == {}
