"""A hardened model computes the same, and no longer hangs on the units that were split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lesion import Study, load
from lesion.cli.app import app
from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.models.discovery import discover
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.harden import harden
from lesion.remedies.split import MULTIPLE, Split, SplitUnits, split
from lesion.study.options import StudyOptions
from lesion.study.session import Session
from tests.families.__main__ import BUILDERS
from tests.models.test_families import prompts_of, vlm_of
from tests.remedies.test_export import run_stock
from tests.remedies.test_export import stock as stock  # a fixture

PROMPT, CRITICAL = "Describe the image.", (47, 158, 262, 391)
OPTIONS: dict[str, Any] = {"samples": 16, "controls": 1, "max_new_tokens": 16, "clip": "none", "criterion": "perplexity"}


def critical(vlm: VisionLanguageModel) -> NeuronSet:
    """The planted units of tiny-llava."""
    site = next(s for s in vlm.sites if (s.component, s.role, s.layer) == ("language", "gate", 1))
    return NeuronSet((Neuron(site, i) for i in CRITICAL), vlm.identity())


def language(vlm: VisionLanguageModel, role: str, layer: int = 0) -> Any:
    return next(s for s in vlm.sites if (s.component, s.role, s.layer) == ("language", role, layer))


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-llava, its planted units split into four."""
    out, vlm = tmp_path_factory.mktemp("hardened") / "out", load("tiny-llava")
    written = harden(vlm, critical(vlm), out, Split(4), load_samples("scenes", 4), PROMPT)
    assert written.difference < 1e-5 and written.change == SplitUnits(critical(vlm), 4, 16) and 1 < written.size < 1.05
    return out


def test_a_unit_becomes_several_with_a_share_each(hardened: Path):
    old, new = load("tiny-llava").model, load(str(hardened)).model
    path = "model.language_model.layers.1.mlp"
    before, after = old.get_submodule(path), new.get_submodule(path)
    width: int = before.up_proj.out_features
    assert after.down_proj.in_features == width + 16 and new.config.text_config.intermediate_size == width + 16
    for name in ("gate_proj", "up_proj"):
        rows = getattr(after, name).weight
        assert (rows[:width] == getattr(before, name).weight).all()
        assert (rows[width : width + 3] == rows[CRITICAL[0]]).all() and (rows[width + 12 :] == 0).all()
    columns = after.down_proj.weight
    assert (columns[:, CRITICAL[0]] == before.down_proj.weight[:, CRITICAL[0]] / 4).all()
    assert (columns[:, width : width + 3] == columns[:, CRITICAL[0], None]).all()
    others = [i for i in range(width) if i not in CRITICAL]
    assert (columns[:, others] == before.down_proj.weight[:, others]).all()


def test_the_attacker_who_ranks_anew_needs_three_times_as_many(hardened: Path, tmp_path: Path):
    before = Study(out=tmp_path / "before", **OPTIONS).run()
    after = Study(str(hardened), data="scenes", out=tmp_path / "after", **OPTIONS).run()
    assert before.k_star == 4 and after.k_star is not None and after.k_star >= 3 * before.k_star


def test_every_single_loss_is_survived(hardened: Path, tmp_path: Path):
    """Each copy alone, measured by what a certificate measures."""
    options = StudyOptions.parse(model=str(hardened), data="scenes", **OPTIONS)
    with Session.open(options, out=tmp_path / "run") as session:
        site = next(s for s in session.sites if s.layer == 1)
        copies = [*CRITICAL, *range(site.width - 16, site.width)]
        decisions = session.ablation().decisions([NeuronSet([Neuron(site, i)]) for i in copies])
    assert set(decisions) == {"standing"}


def test_any_tool_loads_it(hardened: Path, stock: Path):
    """In an environment without lesion: every weight is there, in the new shape."""
    found = run_stock(stock, "AutoModelForImageTextToText", str(hardened), "")
    own = load(str(hardened)).model.state_dict()
    assert found.keys() == own.keys()
    for name, value in own.items():
        assert found[name] == pytest.approx(float(value.double().square().sum()), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "llava", "opt"])
def test_it_is_the_same_function(name: str):
    """Of any family with plain layers and one size; of others it is said."""
    example = BUILDERS[name]()  # one of its own, since it is changed
    vlm = VisionLanguageModel(example.model, example.processor, name)
    prompts = prompts_of(vlm)
    answers = vlm.generate(vlm.embed(prompts), 6)
    before, model = vlm.answer_log_probs(vlm.embed(prompts), answers), vlm.model
    site = next(s for s in vlm.sites if s.component == "language" and s.role == "hidden")
    neurons = NeuronSet(Neuron(site, i) for i in (0, 3))
    if name == "opt":
        with pytest.raises(ModelError, match="the language model's configuration has no intermediate_size"):
            split(model, neurons, 3)
        return
    assert split(model, neurons, 3) == MULTIPLE
    assert next(s for s in discover(model) if s.key == site.key).width == site.width + MULTIPLE
    for mine, theirs in zip(before, vlm.answer_log_probs(vlm.embed(prompts), answers), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_split_is_said(tmp_path: Path):
    vlm = load("tiny-llava")
    with pytest.raises(OptionError, match="holds no intermediate units of the language model; expected neurons of gate"):
        split(vlm.model, NeuronSet([Neuron(language(vlm, "down"), 0)]), 2)
    with pytest.raises(OptionError, match="split is 1; expected at least 2"):
        split(vlm.model, critical(vlm), 1)
    phi = vlm_of("phi3")
    with pytest.raises(ModelError, match="is not made of plain linear layers"):
        split(phi.model, NeuronSet([Neuron(next(s for s in phi.sites if s.role == "hidden"), 0)]), 2)
    with pytest.raises(ModelError, match=r"no feed-forward network at .*; is the set from another model"):
        split(vlm.model, NeuronSet([Neuron(next(s for s in phi.sites if s.role == "hidden"), 0)]), 2)


def test_the_command(tmp_path: Path):
    critical(load("tiny-llava")).save(tmp_path / "set.json")
    words = ["harden", "tiny-llava", str(tmp_path / "set.json"), str(tmp_path / "out"), "--samples", "2"]
    done = CliRunner().invoke(app, [*words, "--split", "2", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["times"] == 2
    assert "units split into 2" in (tmp_path / "out" / "README.md").read_text()
    wrong = CliRunner().invoke(app, [*words, "--split", "1"])
    assert wrong.exit_code == 2 and "split is 1; expected at least 2" in wrong.stderr
