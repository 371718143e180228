"""``lesion show`` while a study runs and after it was killed, and how to go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.study import rundir
from lesion.study.lock import LOCK, OWNER
from lesion.study.rundir import RunDirectory

runner = CliRunner()
COMMAND = ["study", "tiny-llava", "--samples", "16", "--max-new-tokens", "4", "--controls", "30", "--clip", "none"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder of a study that was interrupted, what was shown while it ran, and its last words."""
    folder = tmp_path_factory.mktemp("unfinished") / "my run"
    # What it imports takes seconds the first time, in which the study below could come to its end.
    assert runner.invoke(app, ["show", str(folder)]).exit_code == 2
    arguments = [sys.executable, "-m", "lesion.cli", *COMMAND, "--out", str(folder)]
    # Whoever runs the tests in the background has interrupts ignored, and a process inherits that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    end = time.monotonic() + 120
    while not (folder / rundir.EVALUATIONS).exists() and time.monotonic() < end:
        time.sleep(0.01)
    shown = runner.invoke(app, ["show", str(folder)])
    assert shown.exit_code == 0, shown.output
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    return folder, shown.output, said


def test_while_it_runs_it_says_who_works_on_it(killed):
    folder, shown, _ = killed
    words = " ".join(shown.split())
    assert re.search(r"The study of tiny-llava is not finished; process \d+ on .+, since .+ is working on it\.", words)
    assert "stages done: answers, importance, ranking" in words and "to go on" not in words
    assert (folder / LOCK).parent == folder


def test_an_interrupt_says_the_command_that_goes_on(killed):
    folder, _, said = killed
    assert said.splitlines()[-1].startswith("lesion: interrupted; to go on where this stopped: lesion study tiny-llava ")
    assert said.rstrip().endswith(f"--out '{folder}'") and "Traceback" not in said
    assert re.search(r"^\[\d\d:\d\d:\d\d\] scoring neurons \(8\)$", said, re.MULTILINE)


def test_then_it_says_what_is_there_and_how_to_go_on(killed):
    folder, _, _ = killed
    words = " ".join(runner.invoke(app, ["show", str(folder)]).output.split())
    assert "is not finished; it is not running." in words and "neurons masked" in words
    assert words.endswith(f"--out '{folder}'") and "to go on: lesion study tiny-llava" in words
    there = json.loads(runner.invoke(app, ["show", str(folder), "--json"]).output)
    assert there["done"] == ["answers", "importance", "ranking"] and there["to_come"][0] == "curve"
    assert there["evaluations"] == len(RunDirectory(folder).measured()) > 0
    assert there["last"][0]["neurons"] == 0 and there["last"][0]["ppl_reference"] > 1


def test_a_process_that_is_gone_owns_nothing(killed, tmp_path):
    folder = Path(shutil.copytree(killed[0], tmp_path / "run"))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for pid, known in ((child.pid, False), (os.getpid(), True)):
        about = {"host": os.uname().nodename, "pid": pid, "since": "noon"}
        (folder / OWNER).write_text(json.dumps(about))
        shown = json.loads(runner.invoke(app, ["show", str(folder), "--json"]).output)
        assert (shown["owner"] is not None) is known


def test_a_damaged_file_is_named(killed, tmp_path):
    folder = Path(shutil.copytree(killed[0], tmp_path / "run"))
    path = folder / rundir.EVALUATIONS
    path.write_bytes(path.read_bytes().replace(b'"neurons": 0', b'"neurons": 1'))
    shown = runner.invoke(app, ["show", str(folder)])
    assert shown.exit_code == 2 and "evaluations.jsonl: line 1 is damaged" in shown.stderr


def test_a_full_disk_is_one_line(killed, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(killed[0], tmp_path / "run"))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = runner.invoke(app, [*COMMAND, "--out", str(folder)])
    assert said.exit_code == 2 and "No space left on device; mend that, and run the same command again." in said.stderr
    assert "Traceback" not in said.stderr


def test_too_little_memory_is_one_line(killed, tmp_path, monkeypatch):
    import torch

    from lesion.models.vlm import VisionLanguageModel

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    folder = Path(shutil.copytree(killed[0], tmp_path / "run"))
    monkeypatch.setattr(VisionLanguageModel, "embed", full)
    said = runner.invoke(app, [*COMMAND, "--out", str(folder)])
    assert said.exit_code == 2 and "out of memory (CUDA out of memory" in said.stderr and "--batch-size" in said.stderr
