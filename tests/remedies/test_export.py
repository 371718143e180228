"""A masked model as a checkpoint: it answers as under hooks, and any tool loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lesion import load
from lesion.cli.app import app
from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.hooks.edit import MergedMask
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import Scale, Zero
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.export import export
from tests.models.test_families import vlm_of
from tests.real_weights import needs_real_weights

PROMPT = "Describe the image."
STOCK = """
import importlib.util, json, sys
assert importlib.util.find_spec("lesion") is None, "this environment must not have it"
import transformers
transformers.logging.set_verbosity_error()
kind, folder, question = sys.argv[1:]
model = getattr(transformers, kind).from_pretrained(folder)
names = ("mask", "lesion")
assert not any(name in key for key in model.config.to_dict() for name in names)
if kind == "AutoModelForCausalLM":
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    print(json.dumps(model.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist()))
else:
    weights = {name: float(value.double().square().sum()) for name, value in model.state_dict().items()}
    print(json.dumps(weights))
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with everything that is installed here but lesion."""
    folder = tmp_path_factory.mktemp("stock") / "env"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "lesion" not in path.name.lower():
            (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


def run_stock(python: Path, *words: str) -> Any:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", STOCK, *words], capture_output=True, text=True, cwd=python.parent, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")


def members(vlm: VisionLanguageModel, role: str) -> NeuronSet:
    """The planted neurons for ``gate``; some of two layers otherwise."""
    sites = [s for s in vlm.sites if s.component == "language" and s.role == role]
    if role == "gate":
        return NeuronSet((Neuron(sites[1], i) for i in (47, 158, 262, 391)), vlm.identity())
    return NeuronSet((Neuron(site, i) for site in sites[:2] for i in (0, 3, 9)), vlm.identity())


@pytest.mark.parametrize("role", ["gate", "up", "hidden", "down", "head"])
def test_it_answers_as_under_hooks(vlm: VisionLanguageModel, tmp_path: Path, role: str):
    neurons = members(vlm, role) if role != "head" else NeuronSet(
        [Neuron(next(s for s in vlm.sites if s.role == "head" and s.component == "language"), 1)], vlm.identity()
    )  # fmt: skip
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    samples = load_samples("scenes", 4)
    written = export(vlm, neurons, tmp_path / "out", samples, PROMPT)
    assert written.difference <= 1e-6 and written.samples == 4
    assert all((value == before[name]).all() for name, value in vlm.model.state_dict().items()), "the model is as it was"
    again = load(str(tmp_path / "out"))
    prompts = [vlm.prompt(sample, PROMPT) for sample in samples]
    with mask(vlm.model, neurons):
        hooked = vlm.generate(vlm.embed(prompts), 32)
    assert [a.text for a in again.generate(again.embed(prompts), 32)] == [a.text for a in hooked]
    assert again.identity().differs_from(vlm.identity()), "it is another model"
    kept = NeuronSet.load(tmp_path / "out" / "neurons.json")
    assert list(kept) == list(neurons)
    assert f"{len(neurons)} neurons masked" in (tmp_path / "out" / "README.md").read_text()


def test_any_tool_loads_it(vlm: VisionLanguageModel, tmp_path: Path, stock: Path):
    """In an environment without lesion: every weight is the original's, but for the columns of the masked units."""
    neurons = members(vlm, "gate")
    export(vlm, neurons, tmp_path / "out", load_samples("scenes", 2), PROMPT)
    found = run_stock(stock, "AutoModelForImageTextToText", str(tmp_path / "out"), "")
    own = {name: float(value.double().square().sum()) for name, value in vlm.model.state_dict().items()}
    differing = [name for name, value in found.items() if value != pytest.approx(own[name], rel=0, abs=1e-9)]
    assert found.keys() == own.keys() and differing == ["model.language_model.layers.1.mlp.down_proj.weight"]


@pytest.mark.slow
@needs_real_weights
def test_real_weights_too(tmp_path: Path, stock: Path):
    """SmolLM2, whose package holds a GGUF file, becomes a folder that transformers loads; its answer is that under hooks."""
    vlm = load("smollm2")
    site = next(s for s in vlm.sites if s.role == "hidden" and s.layer == 11)
    neurons = NeuronSet([Neuron(site, 7)], vlm.identity())
    (sample, *_) = samples = load_samples("prompts", 2)
    export(vlm, neurons, tmp_path / "out", samples, PROMPT, max_new_tokens=6)
    ids = run_stock(stock, "AutoModelForCausalLM", str(tmp_path / "out"), str(sample.prompt))
    with vlm.prepared(), mask(vlm.model, neurons):
        (answer,) = vlm.generate(vlm.embed([vlm.prompt(sample, PROMPT)]), 6)
    assert tuple(ids[-len(answer.ids) :]) == answer.ids


def test_what_weights_cannot_express_is_refused(vlm: VisionLanguageModel, tmp_path: Path):
    neurons, samples = members(vlm, "gate"), load_samples("scenes", 1)
    with pytest.raises(OptionError, match="acts on some tokens, and weights are the same for all"):
        export(vlm, neurons, tmp_path / "out", samples, PROMPT, Zero(positions="first"))
    with pytest.raises(OptionError, match=r"weights express the mask 'zero' alone, and not 'scale"):
        export(vlm, neurons, tmp_path / "out", samples, PROMPT, Scale(factor=0.5))
    (tmp_path / "there").mkdir()
    with pytest.raises(OptionError, match="there is there; choose a folder that is not"):
        export(vlm, neurons, tmp_path / "there", samples, PROMPT)
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


def test_experts_are_refused(tmp_path: Path):
    moe = vlm_of("mixtral")
    site = next(s for s in moe.sites if s.expert is not None)
    with pytest.raises(ModelError, match="masks of experts cannot be merged"):
        export(moe, NeuronSet([Neuron(site, 0)]), tmp_path / "out", load_samples("prompts", 1), PROMPT)
    assert list(tmp_path.iterdir()) == []


def test_what_answers_otherwise_is_not_kept(vlm: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MergedMask, "apply", lambda self, model: None)
    with pytest.raises(ModelError, match=r"what was written says .*, and should say .*; nothing was kept"):
        export(vlm, members(vlm, "gate"), tmp_path / "out", load_samples("scenes", 2), PROMPT)
    assert list(tmp_path.iterdir()) == []


def test_the_command(vlm: VisionLanguageModel, tmp_path: Path):
    members(vlm, "gate").save(tmp_path / "set.json")
    words = ["export", "tiny-llava", str(tmp_path / "set.json"), str(tmp_path / "out"), "--samples", "2"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["neurons"] == 4
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "is there; choose a folder that is not" in again.stderr
    other = CliRunner().invoke(app, [*words[:3], str(tmp_path / "more"), "--mask", "mean"])
    assert other.exit_code == 2 and "hooks" in other.stderr and not (tmp_path / "more").exists()
