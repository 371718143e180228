"""Units split into the places of others: no larger model, the same units doubled, and what is lost is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lesion import load, mask
from lesion.cli.app import app
from lesion.core.errors import OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.checkpoint import Asked
from lesion.remedies.harden import Hardened, harden
from lesion.remedies.recycle import Recycle, Recycled
from lesion.remedies.split import COPIES
from tests.remedies.test_harden import CRITICAL, PROMPT, critical, language

PATH = "model.language_model.layers.1.mlp"


@pytest.fixture(scope="module")
def recycled(tmp_path_factory: pytest.TempPathFactory) -> Hardened:
    """tiny-llava, its planted units split into four."""
    vlm = load("tiny-llava")
    out = tmp_path_factory.mktemp("recycled") / "out"
    return harden(vlm, critical(vlm), out, Recycle(4), load_samples("scenes", 4), PROMPT, 8)


def test_copies_take_the_places_of_others(recycled: Hardened):
    old, new = load("tiny-llava").model.get_submodule(PATH), load(recycled.path).model.get_submodule(PATH)
    assert isinstance(recycled.change, Recycled)
    taken = recycled.change.taken[PATH]
    assert len(taken) == 12 and not set(taken) & set(CRITICAL) and recycled.size == 1
    for name in ("gate_proj", "up_proj"):
        before, after = getattr(old, name).weight, getattr(new, name).weight
        assert all((after[place] == before[CRITICAL[i // 3]]).all() for i, place in enumerate(taken))
        rest = [i for i in range(len(before)) if i not in taken]
        assert torch.equal(after[rest], before[rest])
    before, after = old.down_proj.weight, new.down_proj.weight
    assert all((after[:, place] == before[:, CRITICAL[i // 3]] / 4).all() for i, place in enumerate(taken))
    assert (after[:, list(CRITICAL)] == before[:, list(CRITICAL)] / 4).all()


def test_the_set_of_copies_is_beside_the_checkpoint(recycled: Hardened):
    """Masking all of it does what masking the split units did; masking a quarter of it does not."""
    vlm = load(recycled.path)
    copies = NeuronSet.load(Path(recycled.path) / COPIES).fit(vlm.sites)
    assert len(copies) == 16 and all(i in copies.indices(language(vlm, "gate", 1)) for i in CRITICAL)
    original, asked = load("tiny-llava"), Asked(load_samples("scenes", 2), PROMPT, 8)
    answers, site = asked.of(original).answers, language(vlm, "gate", 1)

    def perplexity(of: VisionLanguageModel, neurons: NeuronSet) -> float:
        with mask(of.model, neurons):
            return asked.of_answers(of, answers).perplexity() or float("inf")

    intact, broken = perplexity(original, NeuronSet()), perplexity(original, critical(original))
    assert perplexity(vlm, copies) == pytest.approx(broken, rel=0.05) and broken > 4 * intact
    assert perplexity(vlm, NeuronSet(Neuron(site, i) for i in CRITICAL)) < 1.5 * intact


def test_what_it_costs_is_measured_on_samples_that_chose_nothing(recycled: Hardened):
    cost = recycled.cost
    assert cost is not None and cost.samples == 2 and cost.before is not None and cost.after is not None
    assert 1 < cost.before < 2 and cost.after < 1.1 * cost.before
    asked = Asked(load_samples("scenes", 4)[2:], PROMPT, 8)
    original = asked.of(load("tiny-llava"))
    assert original.perplexity() == pytest.approx(cost.before)
    assert asked.of_answers(load(recycled.path), original.answers).perplexity() == pytest.approx(cost.after, rel=1e-4)
    card = (Path(recycled.path) / "README.md").read_text()
    assert "computes the same" not in card and str(cost) in card


def test_the_units_that_write_least_are_taken():
    """Those whose value is zero write nothing, and go first."""
    vlm = load("tiny-llava")
    dead = [3, 100, 200]
    with torch.no_grad():
        vlm.model.get_submodule(f"{PATH}.up_proj").weight[dead] = 0
    site = language(vlm, "gate", 1)
    change = Recycle(4).apply(vlm, NeuronSet([Neuron(site, 47)]), Asked(load_samples("scenes", 2), PROMPT, 4))
    assert sorted(change.taken[PATH]) == dead


def test_what_cannot_be_recycled_is_said():
    vlm = load("tiny-llava")
    asked, site = Asked(load_samples("scenes", 1), PROMPT, 4), language(vlm, "gate", 1)
    many = NeuronSet(Neuron(site, i) for i in range(site.width // 2))
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    with pytest.raises(OptionError, match=r"has 224 other units, and 672 places are needed; split fewer"):
        Recycle(4).apply(vlm, many, asked)
    assert all(torch.equal(value, before[name]) for name, value in vlm.model.state_dict().items())
    with pytest.raises(OptionError, match="split is 1; expected at least 2"):
        Recycle(1).apply(vlm, many, asked)


def test_the_command(tmp_path: Path):
    critical(load("tiny-llava")).save(tmp_path / "set.json")
    words = ["harden", "tiny-llava", str(tmp_path / "set.json"), str(tmp_path / "out"), "--samples", "2", "--recycle"]
    both = CliRunner().invoke(app, [*words, "--rotate"])
    assert both.exit_code == 2 and "--recycle and --rotate are remedies of their own" in both.stderr
    done = CliRunner().invoke(app, [*words, "--split", "2", "--max-new-tokens", "4", "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == 0 and (found["remedy"], found["times"], found["size"]) == ("recycle", 2, 1.0)
    assert found["cost"]["samples"] == 1 and [len(places) for places in found["taken"].values()] == [4]
