"""Stages: each can be resumed, made anew or replaced alone, and a finished study is read and not run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lesion import Result, Study
from lesion.core.errors import OptionError
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study import checksums, rundir
from lesion.study.lock import LOCK
from lesion.study.stages import STAGES
from tests import results

OPTIONS: dict[str, Any] = {"data": "questions", "samples": 8, "controls": 1, "max_new_tokens": 2, "clip": "none"}
"""Yes and no are short: a study of tiny-llava that collapses, in a second or two."""


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")


@pytest.fixture(scope="module")
def whole(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stages") / "run"
    result = Study(vlm, out=out, **OPTIONS).run()
    assert result.k_star == 4 and result.minimal_set, "the stages behind a collapse have something to do"
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def study(vlm: VisionLanguageModel, run: Path) -> Study:
    return Study(vlm, out=run, **OPTIONS)


def kept(run: Path) -> dict[str, Any]:
    """``result.json`` but for where it is."""
    return {k: v for k, v in json.loads((run / rundir.RESULT).read_text()).items() if k != "run"}


def evaluations(run: Path) -> int:
    return (run / rundir.EVALUATIONS).read_bytes().count(b"\n")


def test_every_stage_writes_what_it_says(whole: Path):
    assert list(STAGES) == [
        "answers", "importance", "ranking", "curve", "collapse", "confirmed", "minimal", "controls", "blind", "search",
        "result",
    ]  # fmt: skip
    names = {p.name for p in whole.iterdir()} - {LOCK, checksums.FILE}
    assert names == {stage.artefact for stage in STAGES.values()} | {
        rundir.CONFIG, rundir.MANIFEST, rundir.STAGES, rundir.TIMINGS, rundir.EVALUATIONS, rundir.CRITICAL, rundir.PICTURES,
    }  # fmt: skip
    made_from = json.loads((whole / rundir.STAGES).read_text())
    assert {name: set(inputs) for name, inputs in made_from.items()} == {
        name: {STAGES[before].artefact for before in stage.after} for name, stage in STAGES.items()
    }


def test_a_finished_study_is_read_and_not_run_again(vlm, run, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in run.iterdir()}
    for name in ("generate", "batches"):
        original = getattr(vlm, name)
        # The doctor's check looks at one sample; a study of eight has more in a call.
        monkeypatch.setattr(vlm, name, lambda first, *a, f=original: f(first, *a) if len(first) < 4 else pytest.fail("run"))
    assert study(vlm, run).run() == Result.load(run)
    after = {p: p.stat().st_mtime_ns for p in run.iterdir()}
    assert {p.name for p in run.iterdir() if before.get(p) != after[p]} <= {rundir.MANIFEST, LOCK, checksums.FILE}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_can_be_made_anew(vlm, run, whole, stage):
    """``--from``: everything from there on is made again, to the same answer, and nothing is measured twice."""
    before = {name: (run / s.artefact).stat().st_mtime_ns for name, s in STAGES.items()}
    count = evaluations(run)
    study(vlm, run).run(start=stage)
    made = [name for name, s in STAGES.items() if (run / s.artefact).stat().st_mtime_ns != before[name]]
    assert made == list(STAGES)[list(STAGES).index(stage) :]
    assert kept(run) == kept(whole) and evaluations(run) == count


@pytest.mark.parametrize("stage", STAGES)
def test_a_study_without_a_stages_artefact_goes_on_from_there(vlm, run, whole, stage):
    (run / STAGES[stage].artefact).unlink()
    count = evaluations(run)
    study(vlm, run).run()
    assert kept(run) == kept(whole) and evaluations(run) == count


def test_an_unknown_stage_is_named(vlm, run):
    before = (run / rundir.MANIFEST).read_bytes()
    with pytest.raises(OptionError, match="stage 'sweep' is unknown; expected one of answers, importance, ranking"):
        study(vlm, run).run(start="sweep")
    assert (run / rundir.MANIFEST).read_bytes() == before


def test_a_ranking_replaced_by_hand_is_what_the_rest_is_made_from(vlm, run, whole):
    """The first two lines exchanged with two from the end: the curve, k* and all that follows are those of that order."""
    path = run / rundir.RANKING
    head, *lines = path.read_text().splitlines(keepends=True)
    order = [*lines[-2:], *lines[:-2]]
    path.write_text(head + "".join(order))
    study(vlm, run).run()
    new, old = kept(run), kept(whole)
    assert new["k_star"] == old["k_star"] + 2
    last = [line.split(",") for line in lines[-2:]]
    assert [(n["path"], n["index"]) for n in new["top"][:2]] == [(cells[1], int(cells[5])) for cells in last]
    assert len(new["critical_neurons"]) == 6 and new["minimal_set"] == old["minimal_set"]
    assert new["controls"] != old["controls"], "they have the new size"
    path.write_text(head + "".join(lines))
    study(vlm, run).run()
    assert kept(run) == old


def test_the_answer_is_made_anew_where_only_the_curve_differs(vlm, tmp_path):
    """Without a collapse there are no controls and no minimal set, before and after."""
    options = {**OPTIONS, "max_k": 2}
    first = Study(vlm, out=tmp_path / "run", **options).run()
    path = tmp_path / "run" / rundir.RANKING
    head, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(head + "".join(reversed(lines)))
    again = Study(vlm, out=tmp_path / "run", **options).run()
    assert first.k_star is None and again.k_star is None
    assert [p.evaluation for p in again.curve][1:] != [p.evaluation for p in first.curve][1:]
    assert again.top[0].index != first.top[0].index or again.top[0].layer != first.top[0].layer


def test_notes_are_the_same_after_a_resume(vlm, tmp_path):
    """Those of a stage that is not run again too."""
    options = {**OPTIONS, "minimal_limit": 1, "split": "same"}
    whole = Study(vlm, out=tmp_path / "run", **options).run()
    assert any("minimal limit (1)" in note for note in whole.notes) and any("fitted" in note for note in whole.notes)
    (tmp_path / "run" / rundir.RESULT).unlink()
    assert Study(vlm, out=tmp_path / "run", **options).run().notes == whole.notes


def test_a_result_of_another_version_is_made_anew_from_what_was_measured(vlm, run, whole):
    count = evaluations(run)
    for damage in ({"places": None}, {"verdict": 3}):
        results.rewrite(run / rundir.RESULT, {**kept(run), **damage})
        study(vlm, run).run()
        assert kept(run) == kept(whole) and evaluations(run) == count


CODE = f"import sys; from lesion import Study; Study('tiny-llava', out=sys.argv[1], **{OPTIONS}).run()"


def test_killed_and_started_again(vlm, whole, tmp_path):
    """SIGKILL before anything is masked and in the middle of it; the last start ends the same and repeats nothing."""
    killed = tmp_path / "killed"
    command, lines = [sys.executable, "-c", CODE, str(killed)], killed / rundir.EVALUATIONS
    for there in ((killed / rundir.ANSWERS).exists, lambda: lines.exists() and evaluations(killed) >= 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 120
        while time.time() < deadline and not there():
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / rundir.RESULT).exists()
    before = lines.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    study(vlm, killed).run()
    after = lines.read_bytes()
    assert after.startswith(before), "finished lines stay as they are"
    keys = [json.loads(line)["key"] for line in after.splitlines()]
    assert len(keys) == len(set(keys)) == evaluations(whole), "nothing is measured twice"
    assert kept(killed) == kept(whole)
    assert json.loads((killed / rundir.MANIFEST).read_text())["starts"] == 3
