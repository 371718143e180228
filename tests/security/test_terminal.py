"""What a model, a file or a result says cannot steer the terminal."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from lesion.cli.app import app
from tests import results
from tests.results import save

STEERING = "\x1b]0;title\x07\x1b[31mred\x1b[2J\x9b31m\u202eabc\x08\r"
"""Sets the window's title, paints, clears the screen, turns the direction of text round, and goes back."""


def marks(text: str) -> set[str]:
    """Those of its characters that a terminal obeys."""
    return {c for c in text if (c < " " and c != "\n") or "\x7f" <= c <= "\x9f" or "\u202a" <= c <= "\u202e"}


def run(*words: str) -> str:
    outcome = CliRunner().invoke(app, words)
    return outcome.stdout + outcome.stderr


def test_errors_steer_nothing(tmp_path: Path):
    for words in (
        ["study", f"no{STEERING}model"], ["show", str(tmp_path / f"no{STEERING}run")], ["study", "--layers", STEERING],
        ["study", "--data", f"/no{STEERING}data"], ["study", "--neurons", f"/no{STEERING}set.json"],
        ["study", "--scorer", STEERING],
    ):  # fmt: skip
        said = run(*words)
        assert said.startswith("lesion: ") and len(said.splitlines()) == 1 and not marks(said), repr(said)
    assert marks(STEERING) == {"\x1b", "\x07", "\x9b", "\u202e", "\x08", "\r"}


def test_a_result_steers_nothing(tmp_path: Path):
    made = results.result(
        samples=2, ks=(0, 1, 2), nll=(0.1, 0.2, 4.0), model=STEERING, verdict=STEERING, notes=[STEERING], command=STEERING,
        examples=[dict.fromkeys(("sample", "category", "reference", "intact", "masked", "mode"), STEERING)],
    )  # fmt: skip
    assert not marks(run("show", str(save(made, tmp_path / "run"))))
