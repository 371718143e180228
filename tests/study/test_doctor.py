"""The doctor finds every family healthy, and says what ails a model that is not as lesion believes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.core.errors import ModelError
from lesion.core.sites import Sites
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study.doctor import Diagnosis, diagnose, examine
from lesion.study.study import Study
from lesion.zoo import folder
from tests import tiny_models
from tests.families.heads import HEADS
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
    assert {f"{component} head" for component in HEADS[family]} <= masked


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
        (wrong_width, "sites: model.language_model.layers.0.mlp.gate_proj:gate should have 25 channels, gives 24"),
    ],
)  # fmt: skip
def test_what_ails_a_model_is_said(change, complaint):
    found = sick(change)
    assert not found.healthy and found.complaint.startswith(complaint)
    assert found.checks[-1].ok is False, "nothing is asked after a failed check"


# -- a processor that cannot be loaded --------------------------------------------------------------------------------------
TORCHVISION = (
    "\nQwen2VLVideoProcessor requires the Torchvision library but it was not found in your environment. Check out the "
    "instructions on the\ninstallation page: https://pytorch.org/get-started/locally/ and follow the ones that match your "
    "environment.\nPlease note that you may need to restart your runtime after installation.\n"
)
"""What transformers says where torchvision is not installed."""


def not_healthy(where: Path, complaint: str) -> None:
    """The diagnosis, and both of what the command writes."""
    diagnosis = diagnose(str(where))
    assert not diagnosis.healthy and complaint in diagnosis.complaint and diagnosis.complaint.startswith("processor: ")
    assert diagnosis.checks[-1].ok is False and diagnosis.checks[-1].found.endswith("nothing was run")
    assert not any(check.name in ("generation", "gradients arrive") for check in diagnosis.checks)
    run = CliRunner().invoke(app, ["doctor", str(where)])
    assert run.exit_code == 1 and "understands this model" not in run.output
    assert complaint in " ".join(run.output.split())
    run = CliRunner().invoke(app, ["doctor", str(where), "--json"])
    rows = json.loads(run.stdout)
    assert run.exit_code == 1 and [row["check"] for row in rows if row["ok"] is False] == ["processor"]


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    tiny_models.llava().model.save_pretrained(tmp_path)

    def refuse(*_, **__):
        raise ImportError(TORCHVISION)

    monkeypatch.setattr(AutoProcessor, "from_pretrained", refuse)
    not_healthy(tmp_path, "needs torchvision, which is not installed; pip install torchvision")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed: the folder loads")
def test_a_folder_of_qwen_without_torchvision(tmp_path):
    """As it is published: its image processor's file is its video processor's too."""
    vlm = vlm_of("qwen2_5_vl")
    vlm.model.save_pretrained(tmp_path)
    vlm.tokenizer.save_pretrained(tmp_path)
    about = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    not_healthy(tmp_path, "needs torchvision, which is not installed; pip install torchvision")


def test_a_folder_without_a_processor(tmp_path):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(folder("tiny-llava") / name, tmp_path / name)
    with pytest.raises(ModelError, match=r"the processor of .* (cannot be loaded|has no image processor)"):
        load(str(tmp_path))
    not_healthy(tmp_path, "the processor of")
    sites = next(c for c in diagnose(str(tmp_path)).checks if c.name == "sites")
    assert "by the module tree alone" in sites.found and sites.ok is None
    assert CliRunner().invoke(app, ["sites", str(tmp_path)]).exit_code == 0


# -- beside a study, and as a command ---------------------------------------------------------------------------------------
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
