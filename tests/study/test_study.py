"""Whole studies of the embedded models, against their known truth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lesion import Result, Study
from lesion.ablation.sweep import budget
from lesion.core.errors import DataError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.report.figures import save_figures
from lesion.report.html import Run, report
from lesion.study.rundir import CONFIG, CRITICAL, EVALUATIONS, FIGURES, IMPORTANCE, MANIFEST, PICTURES, RANKING, REPORT, RESULT
from lesion.zoo import folder
from tests import tiny_models

TRUTH = json.loads((folder("tiny-llava") / "card.json").read_text())["seeded"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[str, Result]:
    """The default study for each role that has a known truth."""
    out = tmp_path_factory.mktemp("studies")
    return {role: Study("tiny-llava", role=role, out=out / role).run() for role in ("gate", "hidden", "down")}


@pytest.mark.parametrize("role", ["gate", "hidden"])
def test_the_seeded_units_are_found(studies, role):
    result = studies[role]
    ranking = (Path(result.run) / RANKING).read_text().splitlines()[1:6]
    first = {(int(layer), int(index)) for _, _, _, _, layer, index, *_ in (line.split(",") for line in ranking)}
    assert first >= {(TRUTH["layer"], unit) for unit in TRUTH["units"]}
    assert result.k_star is not None and result.k_star <= 5
    assert result.stage1_k is not None and result.stage1_k < result.k_star
    assert result.minimal_verified and result.minimal_set
    assert {(n.layer, n.index) for n in result.minimal_set} <= {(TRUTH["layer"], unit) for unit in TRUTH["units"]}
    drawn = [c for c in result.controls if c.kind == "random"]
    assert len(drawn) == 10 and {c.k for c in drawn} == {result.k_star}
    assert [c.collapsed for c in drawn] == [False] * 10
    assert not [note for note in result.notes if "no gradient" in note]
    assert "a critical handful" in result.verdict and "10 of 10 random sets" in result.verdict


def test_the_seeded_channels_are_found(studies):
    result = studies["down"]
    assert result.k_star is not None and result.k_star <= 5
    assert {(n.layer, n.index) for n in result.critical} >= {(TRUTH["layer"], c) for c in TRUTH["channels"]}
    assert [c.collapsed for c in result.controls if c.kind == "random"] == [False] * 10


def test_the_curve_keeps_its_budget(studies):
    for result in studies.values():
        assert len(result.curve) <= budget(result.neurons_total)


def test_the_run_directory_is_complete(studies):
    result = studies["gate"]
    run = Path(result.run)
    names = {p.name for p in run.iterdir()} - {".lock"}
    assert names == {CONFIG, MANIFEST, IMPORTANCE, RANKING, EVALUATIONS, RESULT, CRITICAL, REPORT, PICTURES, FIGURES}
    assert {p.name for p in (run / FIGURES).iterdir()} == {"curve.svg", "curve.png", "map.svg", "map.png"}
    assert len(list((run / PICTURES).iterdir())) == result.samples
    assert Result.model_validate_json((run / RESULT).read_text()) == result
    assert "NaN" not in (run / RESULT).read_text()
    critical = NeuronSet.load(run / CRITICAL)
    assert len(critical) == result.k_star and critical.model == "tiny-llava"
    manifest = json.loads((run / MANIFEST).read_text())
    assert manifest["finished"] and manifest["model"]["fingerprint"] == critical.revision
    data = manifest["data"]
    assert len(data["ranked_on"]) == len(data["measured_on"]) == 16
    assert not set(data["ranked_on"]) & set(data["measured_on"]), "k* would be fitted to the images that ranked"
    keys = {json.loads(line)["key"] for line in (run / EVALUATIONS).read_text().splitlines()}
    assert {p.evaluation for p in result.curve} <= keys
    assert {c.evaluation for c in result.controls} <= keys


def test_report_and_figures_are_made_from_the_result_alone(studies, tmp_path):
    """Whoever has result.json and pictures/ can have the rest again, byte for byte."""
    run = Path(studies["gate"].run)
    save_figures(Result.load(run), tmp_path)
    for name in ("curve.svg", "curve.png", "map.svg", "map.png"):
        assert (tmp_path / name).read_bytes() == (run / FIGURES / name).read_bytes(), name
    page = (run / REPORT).read_text()
    assert report([Run.load(run)]) == page
    assert len(page.encode()) < 3e6 and page.count("data:image/jpeg") == 17, "16 measured samples, one of them shown twice"


def test_a_finished_study_is_read_and_not_run_again(studies):
    run = Path(studies["gate"].run)
    before = {p: p.stat().st_mtime_ns for p in run.iterdir()}
    start = time.time()
    assert Study("tiny-llava", role="gate", out=run).run() == studies["gate"]
    assert time.time() - start < 2
    assert {p: p.stat().st_mtime_ns for p in run.iterdir()} == before


def test_no_handful_in_a_model_without_one(tmp_path):
    """Nothing was seeded in tiny-instructblip: if it collapses at all, it takes many neurons."""
    result = Study("tiny-instructblip", controls=1, out=tmp_path / "run").run()
    assert result.k_star is None or result.k_star >= 100
    assert "o critical handful" in result.verdict or "No collapse found" in result.verdict
    assert len(result.curve) <= budget(result.neurons_total)


def small(tmp_path, name, **options):
    vlm = tiny_models.llava()
    options = {"samples": 4, "max_new_tokens": 6, "controls": 2, **options}
    return Study(vlm, out=tmp_path / name, **options)


def test_a_random_model_is_studied_without_a_collapse(tmp_path):
    result = small(tmp_path, "run", max_k=8).run()
    assert result.k_star is None and result.largest_k == 8
    assert result.controls == [] and result.minimal_set is None and not result.minimal_verified
    assert "No collapse found up to k = 8" in result.verdict


@pytest.mark.parametrize(
    "options",
    [
        {"mask": "mean"}, {"mask": "class-mean"}, {"scorer": "perturbation"},
        {"target": "reference"}, {"clip": "none"}, {"split": "same"}, {"scorer": "taylor"},
        {"scorer": "random"}, {"alpha": 0.5, "positions": "answer"}, {"component": "vision", "role": "hidden"},
        {"component": "all", "role": "all"},
    ],
)  # fmt: skip
def test_every_option_makes_a_study(tmp_path, options):
    result = small(tmp_path, "run", max_k=3, **options).run()
    assert [p.k for p in result.curve][:2] == [0, 1]
    assert ("clip" in options) == (result.baseline["clip_score"] is None)


def test_the_batch_size_does_not_change_the_answer(tmp_path):
    one = small(tmp_path, "one", max_k=4, batch_size=1).run()
    four = small(tmp_path, "four", max_k=4, batch_size=4).run()
    assert [p.k for p in one.curve] == [p.k for p in four.curve]
    for a, b in zip(one.curve, four.curve, strict=True):
        assert a.modes == b.modes
        assert a.metrics["nll_reference"] == pytest.approx(b.metrics["nll_reference"], rel=1e-4)
    tables = [(tmp_path / name / RANKING).read_text().splitlines()[1:9] for name in ("one", "four")]
    ranks = [[line.split(",")[1:6] for line in table] for table in tables]
    assert ranks[0] == ranks[1]


def test_what_does_not_fit_the_model_is_refused_before_anything_is_written(tmp_path):
    for options, message in (
        ({"max_k": 73}, "max_k is 73; there are 72 neurons"),
        ({"component": "qformer"}, "component 'qformer' is not in this model"),
        ({"component": "vision"}, "role 'gate' is not in component 'vision'"),
    ):
        with pytest.raises(OptionError, match=message):
            small(tmp_path, "run", **options).run()
    with pytest.raises(DataError, match="one usable image"):
        small(tmp_path, "run", samples=1).run()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_gives_nothing_but_nan_collapses_and_does_not_hang(tmp_path):
    study = small(tmp_path, "run", max_k=4)
    vlm = study._vlm
    assert vlm is not None
    site = vlm.sites.select("language", "down")[-1]
    module = vlm.model.get_submodule(site.path)

    def poison(m, a, out):  # a mask of any gate makes the model break
        gate = a[0]
        return out * torch.nan if bool((gate == 0).any()) else out

    module.register_forward_hook(poison)
    site_only = Study(vlm, out=tmp_path / "run", samples=4, max_new_tokens=6, controls=1, clip="none", max_k=72)
    result = site_only.run()
    assert result.k_star is not None
    assert all(p.metrics["ppl_reference"] is None for p in result.curve if p.k > result.k_star)


COMMAND = [sys.executable, "-m", "lesion.cli.app", "study", "tiny-llava", "--samples", "8", "--controls", "2", "--json"]


def test_killed_and_started_again(tmp_path):
    """SIGKILL at several moments; the last start ends with the same answer and repeats nothing that was finished."""
    whole = tmp_path / "whole"
    subprocess.run([*COMMAND, "--out", str(whole)], check=True, capture_output=True)
    killed = tmp_path / "killed"
    lines = killed / EVALUATIONS
    for enough in (1, 3, 6):
        process = subprocess.Popen([*COMMAND, "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 120
        while time.time() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") >= enough):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / RESULT).exists()
    kept = lines.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    subprocess.run([*COMMAND, "--out", str(killed)], check=True, capture_output=True)
    after = lines.read_bytes()
    assert after.startswith(kept), "finished lines stay as they are"
    keys = [json.loads(line)["key"] for line in after.splitlines()]
    assert len(keys) == len(set(keys)), "nothing is measured twice"
    results = [json.loads((run / RESULT).read_text()) for run in (whole, killed)]
    for result in results:
        del result["run"]
    assert results[0] == results[1]
    assert json.loads((killed / MANIFEST).read_text())["starts"] == 4
