"""The doctor finds every family healthy, and says what ails a model that is not as lesion believes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.core.sites import Sites
from lesion.models.vlm import VisionLanguageModel
from lesion.study.doctor import Diagnosis, examine
from lesion.study.study import Study
from tests import tiny_models
from tests.models.test_families import FAMILIES, SAMPLES, built, vlm_of

PROMPT = "What do you see ?"


def diagnosis(vlm: VisionLanguageModel) -> Diagnosis:
    return examine(vlm, SAMPLES[0], PROMPT)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_healthy(family):
    found = diagnosis(vlm_of(family))
    assert found.healthy and not found.complaint, found.complaint
    masked = {c.name.removeprefix("masking ") for c in found.checks if c.name.startswith("masking ")}
    assert {f"{component} {role}" for component, role in built(family).counts} <= masked


def sick(change) -> Diagnosis:
    vlm = tiny_models.llava()
    change(vlm)
    return diagnosis(vlm)


def believe(**believed):
    def change(vlm):
        vlm.sites = Sites(replace(s, **believed) if s.component == "vision" else s for s in vlm.sites)

    return change


def poison(vlm):
    with torch.no_grad():
        vlm.model.lm_head.weight[:, 0] = torch.nan


def cut_off(vlm):
    """A projector that gives nothing: the image part is there, and does not matter."""
    with torch.no_grad():
        vlm.model.model.multi_modal_projector.linear_1.weight.zero_()
        vlm.model.model.multi_modal_projector.linear_1.bias.zero_()
    vlm.sites = Sites(s for s in vlm.sites if s.component != "connector")


def wrong_width(vlm):
    vlm.sites = Sites(replace(s, width=s.width + 1) if s.role == "gate" else s for s in vlm.sites)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (believe(reachable=True), "gradients arrive: none at model.vision_tower"),
        (believe(reachable=False), "unreachable sites are silent: a gradient at model.vision_tower"),
        (poison, "log-probabilities are finite"), (cut_off, "gradients arrive: none at model.vision_tower"),
        (wrong_width, "sites: model.language_model.layers.0.mlp.gate_proj:gate should have 25 neurons, gives 24"),
    ],
)  # fmt: skip
def test_what_ails_a_model_is_said(change, complaint):
    found = sick(change)
    assert not found.healthy and found.complaint.startswith(complaint)
    assert found.checks[-1].ok is False, "nothing is asked after a failed check"


def test_a_study_of_a_model_that_fails_says_so(tmp_path):
    for i, sample in enumerate(SAMPLES):
        sample.picture.save(tmp_path / f"{i}.png")
    asked = {"data": str(tmp_path), "samples": 2, "clip": "none", "max_new_tokens": 4, "max_k": 1, "controls": 0}
    vlm = tiny_models.llava()
    healthy = Study(vlm, tmp_path / "healthy", **asked).run()
    assert not any("self-check" in note for note in healthy.notes)
    believe(reachable=True)(vlm)
    ill = Study(vlm, tmp_path / "ill", **asked).run()
    assert any("self-check (gradients arrive: none at model.vision_tower" in note for note in ill.notes)


def test_the_command(tmp_path, monkeypatch):
    runner = CliRunner()
    result = runner.invoke(app, ["doctor", "tiny-llava"])
    assert result.exit_code == 0 and "lesion understands this model" in result.stdout
    rows = json.loads(runner.invoke(app, ["doctor", "tiny-llava", "--json"]).stdout)
    assert all(row["ok"] is not False for row in rows) and rows[0]["found"].startswith("LlavaForConditionalGeneration")
    vlm = tiny_models.llava()
    poison(vlm)
    for part in (vlm.model, vlm.processor):
        part.save_pretrained(tmp_path)
    ill = runner.invoke(app, ["doctor", str(tmp_path)])
    assert ill.exit_code == 1 and "failed: log-probabilities are finite" in ill.stdout
    wrong = runner.invoke(app, ["doctor", "tiny-clip"])
    assert wrong.exit_code == 2 and wrong.stderr.startswith("lesion: model type 'clip'")
