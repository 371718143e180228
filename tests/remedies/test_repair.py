"""A constant at the first token stands in for a neuron that is lost; where it does not, the figures say so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lesion import load
from lesion.cli.app import app
from lesion.core.errors import DataError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.guard import Guard
from lesion.remedies.repair import GUARD, Repaired, repair
from tests.real_weights import needs_real_weights

PROMPT = "Describe the image."


def down(vlm: VisionLanguageModel, *channels: int, layer: int = 1) -> NeuronSet:
    site = next(s for s in vlm.sites if (s.component, s.role, s.layer) == ("language", "down", layer))
    return NeuronSet((Neuron(site, i) for i in channels), vlm.identity())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Repaired:
    """tiny-llava without the two channels that carry its massive value."""
    vlm = load("tiny-llava")
    samples = load_samples("scenes", 4)
    return repair(vlm, down(vlm, 74, 139), tmp_path_factory.mktemp("repaired") / "out", samples, PROMPT, 8)


def test_the_folder_is_the_masked_model_with_its_constants_beside_it(written: Repaired):
    vlm = load(written.path)
    assert (vlm.model.get_submodule("model.language_model.layers.1.mlp.down_proj").weight[[74, 139]] == 0).all()
    guard = Guard.load(Path(written.path) / GUARD)
    (own,) = guard.ranges.values()
    assert own.channels.tolist() == [74, 139] and abs(own.first).min() > 100, "a massive value each"
    assert written.difference < 1e-5 and (written.learnt, written.samples) == (2, 2)


def test_perplexities_are_those_of_the_model_as_it_is_used(written: Repaired):
    """Measured once more by plain teacher forcing, with the constants put back by the guard's own context."""
    intact, broken = load("tiny-llava"), load(written.path)
    samples = load_samples("scenes", 4)[2:]
    answers = intact.generate(intact.embed([intact.prompt(s, PROMPT) for s in samples]), 8)
    guard = Guard.load(Path(written.path) / GUARD)

    def perplexity(vlm: VisionLanguageModel) -> float:
        inputs = next(vlm.batches([vlm.prompt(s, PROMPT) for s in samples], answers, 2))
        with torch.inference_mode():
            losses = inputs.losses()
        tokens = torch.tensor([float(len(a.ids)) for a in answers])
        return float(torch.exp((losses * tokens).sum() / tokens.sum()))

    assert perplexity(intact) == pytest.approx(written.intact, rel=1e-3)
    assert perplexity(broken) == pytest.approx(written.masked, rel=1e-3)
    with guard.reinserted(broken):
        assert perplexity(broken) == pytest.approx(written.repaired, rel=1e-3)


def test_the_cards_code_does_the_same_without_lesion(written: Repaired):
    """The code block, run on a model that plain transformers could have loaded."""
    card = (Path(written.path) / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    plain, guarded = load(written.path), load(written.path)
    prompts = [guarded.prompt(s, PROMPT) for s in load_samples("scenes", 1)]
    with Guard.load(Path(written.path) / GUARD).reinserted(guarded), torch.inference_mode():
        wanted = guarded.model.generate(**prompts[0].inputs, max_new_tokens=6, do_sample=False)
    before = plain.model(**prompts[0].inputs).logits
    exec(code, {"model": plain.model})
    with torch.inference_mode():
        found = plain.model.generate(**prompts[0].inputs, max_new_tokens=6, do_sample=False)
    assert found.tolist() == wanted.tolist()
    assert not torch.allclose(plain.model(**prompts[0].inputs).logits, before), "the constants do something"


def test_what_cannot_be_repaired_is_said(tmp_path: Path):
    vlm = load("tiny-llava")
    with pytest.raises(DataError, match="1 samples; expected at least 2"):
        repair(vlm, down(vlm, 74), tmp_path / "out", load_samples("scenes", 1), PROMPT)
    site = next(s for s in vlm.sites if s.component == "vision")
    with pytest.raises(OptionError, match="tells the first token apart"):
        repair(vlm, NeuronSet([Neuron(site, 0)]), tmp_path / "out", load_samples("scenes", 2), PROMPT)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path):
    vlm = load("tiny-llava")
    down(vlm, 74, 139).save(tmp_path / "set.json")
    words = ["harden", "tiny-llava", str(tmp_path / "set.json"), str(tmp_path / "out"), "--samples", "2"]
    both = CliRunner().invoke(app, [*words, "--repair", "--split", "4"])
    assert both.exit_code == 2 and "--split and --repair are remedies of their own" in both.stderr
    done = CliRunner().invoke(app, [*words, "--repair", "--json", "--max-new-tokens", "4"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["kept"] == pytest.approx(found["repaired"] / found["intact"])
    assert json.loads((tmp_path / "out" / "lesion.json").read_text())["did"].startswith("2 neurons masked for good")


@needs_real_weights
def test_one_constant_takes_a_channels_place(tmp_path: Path):
    """Within 2 % of the intact perplexity, where the mask alone raises it ten thousandfold."""
    vlm = load("smollm2")
    done = repair(vlm, down(vlm, 507, layer=11), tmp_path / "out", load_samples("prompts", 4), PROMPT, 12)
    assert done.kept is not None and done.kept < 1.02
    assert done.masked is None or (done.intact is not None and done.masked > 1000 * done.intact)
