"""Whole studies of the embedded models, against their known truth; and of models that do not work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lesion import Result, Study
from lesion.ablation.sweep import budget
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.outcome import COLLAPSED_MODES
from lesion.core.ranking import Ranking
from lesion.data.samples import load_samples
from lesion.models.inputs import Prompt
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study.rundir import CRITICAL, EVALUATIONS, MANIFEST, PICTURES, RANKING, REPORT, RESULT
from lesion.zoo import folder
from tests import tiny_models

TRUTH = json.loads((folder("tiny-llava") / "card.json").read_text())["seeded"]
QUICK: dict[str, Any] = {"data": "questions", "samples": 8, "controls": 0, "max_new_tokens": 2}
"""Yes and no are short: a second a study."""


@pytest.fixture(scope="module")
def llava() -> VisionLanguageModel:
    return load("tiny-llava")


@pytest.fixture(scope="module")
def studies(llava, tmp_path_factory) -> dict[str, Result]:
    """A study for each role that has a known truth; five random sets are the fewest that can show that luck does less."""
    out = tmp_path_factory.mktemp("studies")
    samples = {"gate": 16, "hidden": 16, "down": 8}
    return {
        role: Study(llava, role=role, samples=n, controls=5, max_new_tokens=32, out=out / role).run()
        for role, n in samples.items()
    }


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
    assert len(drawn) == 5 and {c.k for c in drawn} == {result.k_star}
    assert [c.collapsed for c in drawn] == [False] * 5
    assert result.handful and result.complaints == []
    # They do together what none of them does alone, which no gradient tells, and nothing is noted.
    assert result.blind is not None and result.blind.alone is None and result.blind.beyond is None
    assert result.notes == []
    assert "a critical handful" in result.verdict and "5 of 5 random sets" in result.verdict


def test_the_seeded_channels_are_found(studies):
    result = studies["down"]
    assert result.k_star is not None and result.k_star <= 5
    assert {(n.site.layer, n.index) for n in result.critical} >= {(TRUTH["layer"], c) for c in TRUTH["channels"]}
    assert [c.collapsed for c in result.controls if c.kind == "random"] == [False] * 5


def test_every_criterion_says_what_its_k_star_would_be(studies):
    result = studies["gate"]
    stars = {entry.name: (entry.k_star, entry.left_out) for entry in result.criteria}
    assert stars["paper"] == (result.k_star, {}) and stars["perplexity"][0] is not None
    assert stars["perplexity"][0] <= result.k_star and stars["degeneration"][0] is not None
    assert stars["task"] == (None, {"accuracy": "not measured"})


def test_the_curve_keeps_its_budget(studies):
    for result in studies.values():
        assert len(result.curve) <= budget(result.neurons_total)


def test_the_run_directory_is_complete(studies):
    result = studies["gate"]
    run = Path(result.run)
    assert not (run / REPORT).exists(), "whoever shows a result writes the report"
    assert len(list((run / PICTURES).iterdir())) == result.samples
    assert Result.model_validate_json((run / RESULT).read_text()) == result
    assert "NaN" not in (run / RESULT).read_text()
    critical, manifest = NeuronSet.load(run / CRITICAL), json.loads((run / MANIFEST).read_text())
    assert critical.identity is not None and len(critical) == result.k_star
    assert manifest["finished"] and manifest["model"]["weights"] == critical.identity.weights
    data = manifest["data"]
    assert len(data["ranked_on"]) == len(data["measured_on"]) == 8
    assert not set(data["ranked_on"]) & set(data["measured_on"]), "k* would be fitted to the images that ranked"
    keys = {json.loads(line)["key"] for line in (run / EVALUATIONS).read_text().splitlines()}
    assert {p.evaluation for p in result.curve} | {c.evaluation for c in result.controls} <= keys


# -- no more than was measured ---------------------------------------------------------------------------------------------
def test_none_up_to_three_is_none_up_to_three(llava, tmp_path):
    result = Study(llava, out=tmp_path / "run", max_k=3, **QUICK).run()
    assert result.k_star is None and not result.handful and result.controls == [] and result.minimal_set is None
    assert result.verdict == "No collapse up to k = 3 of 2,688 language gate neurons in tiny-llava; larger sets were not tried."


def test_without_controls_it_is_no_handful(llava, tmp_path):
    result = Study(llava, out=tmp_path / "run", **QUICK).run()
    assert result.k_star == 4 and not result.handful
    assert result.verdict.endswith("is open: random sets of that size were not tried.")


def test_many_of_few_neurons_are_no_handful(llava, tmp_path):
    """Eight are fewer than ten, and of the 448 of one layer they are more than one in a hundred."""
    sites = llava.sites.select("language", "gate", layers=[TRUTH["layer"]])
    others = [i for i in range(sites[0].width) if i not in TRUTH["units"]][:4]
    ranking = Ranking.of([Neuron(sites[0], i) for i in (*others, *TRUTH["units"])], sites)
    result = Study(llava, out=tmp_path / "run", ranking=ranking, layers=str(TRUTH["layer"]), **QUICK).run()
    assert result.k_star == 8 and not result.handful
    assert result.verdict == ("No critical handful: tiny-llava stands until 8 of 448 language gate neurons (1.8 %) are masked.")


def test_one_measured_sample_is_an_example(llava, tmp_path):
    result = Study(llava, out=tmp_path / "run", **{**QUICK, "samples": 2, "clip": "none"}).run()
    assert result.k_star_ci == (None, None) and result.stage1_k is None and not result.handful
    assert result.verdict.endswith("Measured on 1 sample: an example, not evidence.")
    assert "1 measured sample is too few for an interval, and to tell stage 1 from noise" in result.notes
    assert "stage 1: not tested: 1 measured sample is too few" in repr(result)
    assert "noise" not in result.verdict and "95 % interval" not in repr(result)


def test_what_the_samples_do_not_decide_is_undecided(llava, tmp_path):
    """One sample and a CLIP score: whatever happens, one score is no evidence of being at chance."""
    result = Study(llava, out=tmp_path / "run", samples=2, controls=0, max_new_tokens=8, max_k=4).run()
    assert result.k_star is None and result.undecided
    assert result.verdict.startswith("Undecided: 1 measured sample does not tell whether masking")


def save_pictures(path: Path, copies: int, count: int) -> str:
    path.mkdir()
    for sample in load_samples("scenes", count):
        for copy in range(copies):
            sample.picture.save(path / f"{sample.id}-{copy}.png")
    return str(path)


def test_near_copies_of_images_are_noted(llava, tmp_path):
    options = {**QUICK, "clip": "none", "max_k": 1, "samples": 8}
    copied = Study(llava, out=tmp_path / "copies", **{**options, "data": save_pictures(tmp_path / "a", 4, 2)}).run()
    assert any("measured images are near copies of another, so intervals are too narrow" in note for note in copied.notes)
    apart = Study(llava, out=tmp_path / "apart", **{**options, "data": save_pictures(tmp_path / "b", 1, 8)}).run()
    assert not any("near copies" in note for note in apart.notes)


# -- models that do not work -----------------------------------------------------------------------------------------------
def test_a_random_model_does_not_work_on_this_data_and_the_verdict_says_so(tmp_path):
    options: dict[str, Any] = {"samples": 8, "max_new_tokens": 6, "controls": 0, "max_k": 4}
    result = Study(tiny_models.llava(), out=tmp_path / "run", **options).run()
    assert result.complaints and not result.handful
    assert result.verdict.startswith("random-llava does not work on this data even intact: ")
    assert result.left_out == {"clip_score": "at chance"}
    assert any("CLIP score is itself at chance, so collapse is judged without it" in note for note in result.notes)


def test_a_model_that_gives_the_same_answer_to_everything_is_complained_of(llava, tmp_path, monkeypatch):
    prompt, first = llava.prompt, []

    def same(sample, text=None):
        first[:] = first or [prompt(sample, text)]
        return Prompt(sample.id, first[0].inputs)

    monkeypatch.setattr(llava, "prompt", same)
    result = Study(llava, out=tmp_path / "run", samples=8, controls=0, max_new_tokens=8, max_k=1).run()
    assert any("it gives the same answer to all 4 samples" in line for line in result.complaints)
    assert "does not work on this data even intact" in result.verdict


def test_a_model_that_gives_nothing_but_nan_collapses_and_does_not_hang(tmp_path):
    vlm = tiny_models.llava()
    module = vlm.model.get_submodule(vlm.sites.select("language", "down")[-1].path)
    # A mask of any gate makes the model break.
    hook = module.register_forward_hook(lambda m, a, out: out * torch.nan if bool((a[0] == 0).any()) else out)
    result = Study(vlm, out=tmp_path / "run", samples=4, max_new_tokens=6, controls=1, clip="none", max_k=72).run()
    hook.remove()
    assert result.k_star is not None
    assert all(p.metrics["ppl_reference"] is None for p in result.curve if p.k > result.k_star)
    assert "NaN" not in (tmp_path / "run" / RESULT).read_text()


# -- other criteria --------------------------------------------------------------------------------------------------------
def test_the_task_criterion_judges_yes_and_no(llava, tmp_path):
    result = Study(llava, out=tmp_path / "run", criterion="task", **{**QUICK, "samples": 32, "clip": "none"}).run()
    assert result.baseline["accuracy"] is not None and result.baseline["accuracy"] > 0.9 and result.complaints == []
    assert result.criterion["name"] == "task" and result.k_star is not None
    at = next(p for p in result.curve if p.k == result.k_star)
    assert at.metrics["accuracy"] is not None and at.metrics["accuracy"] < 0.3, "surely worse than a coin's share of them"
    assert result.left_out == {} and {n.index for n in result.critical if n.site.layer == TRUTH["layer"]} >= set(TRUTH["units"])


@pytest.mark.parametrize("criterion", ["perplexity", "degeneration"])
def test_each_criterion_judges_by_its_own_metric(llava, tmp_path, criterion):
    options: dict[str, Any] = {"samples": 8, "controls": 0, "max_new_tokens": 12, "minimal_limit": 0}
    result = Study(llava, out=tmp_path / "run", criterion=criterion, **options).run()
    assert result.k_star is not None and result.left_out == {}
    for point in result.curve[1:]:
        nll, intact = point.metrics["nll_reference"], result.baseline["nll_reference"]
        assert nll is not None and intact is not None
        risen = (nll - intact) / 2.302585 >= 1
        degenerate = sum(point.modes[mode] for mode in COLLAPSED_MODES) >= 0.5
        assert point.collapsed == (risen if criterion == "perplexity" else degenerate)


# -- rounding --------------------------------------------------------------------------------------------------------------
def test_the_batch_size_does_not_change_the_answer(tmp_path):
    vlm = tiny_models.llava()
    options: dict[str, Any] = {"samples": 4, "max_new_tokens": 6, "controls": 0, "max_k": 4}
    one, four = (Study(vlm, out=tmp_path / str(size), batch_size=size, **options).run() for size in (1, 4))
    assert [p.k for p in one.curve] == [p.k for p in four.curve]
    for a, b in zip(one.curve, four.curve, strict=True):
        assert a.modes == b.modes
        assert a.metrics["nll_reference"] == pytest.approx(b.metrics["nll_reference"], rel=1e-4)
    tables = [(tmp_path / size / RANKING).read_text().splitlines()[1:9] for size in ("1", "4")]
    ranks = [[line.split(",")[1:6] for line in table] for table in tables]
    assert ranks[0] == ranks[1]


def test_heads_are_sites_like_others(tmp_path):
    options: dict[str, Any] = {"samples": 4, "max_new_tokens": 4, "controls": 0, "clip": "none"}
    result = Study(tiny_models.llava(), out=tmp_path / "run", role="head", **options).run()
    assert result.neurons_total == len(result.top) == 6 and {n.role for n in result.top} == {"head"}
    assert len({p.metrics["nll_reference"] for p in result.curve}) == len(result.curve), "each masked head has an effect"
