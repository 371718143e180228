"""A plan says what a study will take, and the study says what it took."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lesion import Study
from lesion.cli.app import app
from lesion.core.errors import OptionError, RunError
from lesion.core.journal import Journal
from lesion.planning.comparison import compare
from lesion.planning.plan import Plan, plan, replicas_of
from lesion.study.rundir import EVALUATIONS, PLAN, TIMINGS

OPTIONS: dict[str, Any] = {
    "data": "questions", "samples": 16, "controls": 2, "max_new_tokens": 2, "clip": "none", "batch_size": 4, "threads": "1",
}  # fmt: skip
WORDS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def passes_of(run: Path) -> int:
    """Samples that were measured under masks, by what was written down."""
    return sum(len(entry["samples"]) for entry in Journal(run / EVALUATIONS).read())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a plan, and the study that followed."""
    run = tmp_path_factory.mktemp("planned") / "run"
    done = CliRunner().invoke(app, ["plan", *WORDS, "--out", str(run), "--k-star", "5"])
    assert done.exit_code == 0, done.output
    assert "k* = 5: passes" in done.output and "no collapse" in done.output and "memory of a replica" in done.output
    assert [path.name for path in run.iterdir()] == [PLAN], "nothing else is made"
    done = CliRunner().invoke(app, ["study", *WORDS, "--out", str(run)])
    assert done.exit_code == 0, done.output
    assert "the plan, and what it took" in done.output
    return run


def test_it_counts_the_passes_that_the_study_takes(planned: Path):
    """All but the minimal set, which depends on how few of the first k* are enough."""
    made = Plan.load(planned)
    assert made is not None and made.replicas == 0
    k_star = json.loads((planned / "result.json").read_text())["k_star"]
    stages = made.case(k_star).stages
    assert made.case(k_star).k_star == k_star, "this k* is one of the sweep's schedule"
    assert stages["answers"].passes == 16 and stages["importance"].passes == 8
    masked = sum(stages[name].passes for name in ("curve", "confirmed", "minimal", "controls", "blind"))
    # What was read and then answered has two lines, and is two passes here too.
    assert masked == pytest.approx(passes_of(planned), abs=8 * k_star)


def test_it_says_how_much_disk_there_must_be(planned: Path):
    made = Plan.load(planned)
    assert made is not None
    k_star = json.loads((planned / "result.json").read_text())["k_star"]
    names = ("importance.safetensors", "ranking.csv", EVALUATIONS)
    assert made.case(k_star).disk == pytest.approx(sum((planned / name).stat().st_size for name in names), rel=0.3)


def test_what_it_took_stands_beside_what_was_planned(planned: Path):
    from lesion import Result

    found = compare(Result.load(planned))
    assert found is not None and found.differs is None and found.k_star == found.planned_k_star
    assert {"answers", "importance", "curve", "controls"} <= {stage.stage for stage in found.stages}
    assert found.took > 0 and found.planned > 0
    timings = json.loads((planned / TIMINGS).read_text())
    assert timings["replicas"] == [0] and timings["stages"].keys() >= {"answers", "curve", "result"}


def test_a_finished_study_is_not_timed_anew(planned: Path):
    before = (planned / TIMINGS).read_bytes()
    Study(out=planned, **OPTIONS).run()
    assert (planned / TIMINGS).read_bytes() == before


def test_more_replicas_ask_ahead_and_measure_the_same(tmp_path: Path):
    few, many = (plan(tmp_path / str(n), n, k_stars=[6], **OPTIONS) for n in (1, 4))
    one, four = few.case(6), many.case(6)
    assert one.stages["controls"].passes == four.stages["controls"].passes
    assert one.stages["importance"].passes == four.stages["importance"].passes == 8
    assert four.passes >= one.passes, "more is asked ahead, and never less"


def test_it_plans_for_what_the_study_is_asked(tmp_path: Path):
    """A mean mask, a dear scorer and a measured search have passes of their own."""
    base = plan(tmp_path / "base", **OPTIONS)
    dear = {"scorer": "integrated-gradients", "mask": "mean", "search": "measured", "search_budget": 40}
    more = plan(tmp_path / "more", **OPTIONS | dear)
    assert more.case(None).stages["importance"].passes > base.case(None).stages["importance"].passes
    assert base.case(None).stages["search"].passes == 0
    assert more.case(None).stages["search"].passes >= 20 * 8


def test_another_studys_folder_is_left_alone(planned: Path):
    before = {path: path.read_bytes() for path in planned.iterdir() if path.is_file()}
    with pytest.raises(RunError, match="holds another study"):
        plan(planned, role="up", **OPTIONS)
    assert {path: path.read_bytes() for path in planned.iterdir() if path.is_file()} == before


def test_a_plan_that_is_damaged_is_named(tmp_path: Path):
    (tmp_path / PLAN).write_text("{}")
    with pytest.raises(RunError, match=r"plan\.json is no plan that this version of lesion reads; plan again, or delete it"):
        Plan.load(tmp_path)
    assert Plan.load(tmp_path / "none") is None


def test_a_damaged_plan_takes_nobodys_answer_away(planned: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(planned, run)
    (run / PLAN).write_text("{}")
    done = CliRunner().invoke(app, ["study", *WORDS, "--out", str(run)])
    assert done.exit_code == 2 and "is no plan that this version" in done.stderr and "k* = " in done.stdout


def test_replicas_are_those_that_the_gpus_hold():
    assert [replicas_of(*x) for x in ((None, 1, None), (None, 1, 3), (8, 1, None), (8, 2, None), (8, 2, 3))] == [0, 3, 8, 4, 3]
    with pytest.raises(OptionError, match="gpus is 1, which hold 0 replicas of 2"):
        replicas_of(1, 2, None)
    with pytest.raises(OptionError, match="gpus is 4, which hold 4 replicas of 1"):
        replicas_of(4, 1, 5)
    with pytest.raises(OptionError, match="gpus per replica is 0; expected at least 1"):
        replicas_of(4, 0, None)
    with pytest.raises(OptionError, match="replicas is -1; expected at least 0"):
        plan(replicas=-1)
