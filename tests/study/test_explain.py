"""``lesion explain``: what the planted neurons do alone, together and scaled, and where the residual stream shows it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lesion import Result, Study, zoo
from lesion.cli.app import app
from lesion.core.errors import OptionError, RunError
from lesion.core.neurons import NeuronSet
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.doses import FACTORS
from lesion.study.explain import explain
from lesion.study.explanation import DoseEntry, Explanation, NeuronDose, Trace, TraceEntry
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.rundir import RunDirectory
from lesion.study.token_losses import pieces
from tests import tiny_models

OPTIONS: dict[str, Any] = {
    "data": "questions", "role": "hidden", "samples": 8, "controls": 0, "max_new_tokens": 2, "clip": "none",
    "criterion": "perplexity",
}  # fmt: skip
TRUTH = json.loads((zoo.folder("tiny-llava") / "card.json").read_text())["seeded"]
runner = CliRunner()


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")


@pytest.fixture(scope="module")
def run(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explain") / "run"
    assert Study(vlm, out=out, **OPTIONS).run().minimal_set
    return out


@pytest.fixture(scope="module")
def explained(vlm: VisionLanguageModel, run: Path) -> Explanation:
    before = tiny_models.hook_count(vlm.model)  # transformers has some of its own
    made = explain(run, vlm)
    assert tiny_models.hook_count(vlm.model) == before
    return made


def test_it_is_about_the_minimal_set_and_kept(run, explained):
    assert explained.source == "minimal set" and {n.index for n in explained.neurons} == set(TRUTH["units"])
    assert Explanation.load(run) == explained


def test_together_they_do_what_alone_they_do_not(explained):
    """Any one of the four writes the channels full; so no pair of them does anything, and masking all four collapses it."""
    assert explained.rise is not None and explained.sum is not None
    assert explained.rise > math.log(10) and explained.rise > 2 * explained.sum
    assert len(explained.pairs) == 6 and all(p.interplay != "redundancy" for p in explained.pairs)
    assert explained.sentences()[0].startswith("Masked together, the 4 raise the mean NLL by ")


def test_a_dose_of_zero_is_the_mask_and_one_close_to_one_hardly_anything(explained):
    for row in explained.doses:
        by_factor = {dose.factor: dose for dose in row.doses}
        assert tuple(by_factor) == FACTORS
        assert by_factor[0.0].rise == pytest.approx(row.alone, abs=1e-4)
        assert abs(by_factor[0.9].rise or 0.0) < 0.2 and not by_factor[0.9].collapsed
    whole = {dose.factor: dose for dose in explained.together}
    assert whole[0.0].rise == pytest.approx(explained.rise, abs=1e-4) and whole[0.0].collapsed
    assert explained.breaks_at() in FACTORS
    assert [len(dose.answers) for dose in explained.together] == [4] * len(FACTORS)


def test_the_tokens_tell_where_the_loss_rises(vlm, run, explained):
    """Together they are the intact answers, and their losses those that the set does to the mean."""
    said = {outcome["id"]: outcome["answer"] for outcome in Result.load(run).curve[0].outcomes}
    assert [row.sample for row in explained.losses] == list(said)
    assert all("".join(row.tokens).startswith(said[row.sample]) for row in explained.losses)
    rises = [b - a for row in explained.losses for a, b in zip(row.intact, row.masked, strict=True)]
    assert all(len(row.tokens) == len(row.intact) for row in explained.losses)
    assert sum(rises) / len(rises) == pytest.approx(explained.rise, abs=1e-4)


class Bytes:
    """A tokenizer with a token for each byte."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return bytes(ids).decode(errors="replace")


def test_a_character_of_several_tokens_is_added_by_the_last():
    assert pieces(Bytes(), "né🐱!".encode()) == ["n", "", "é", "", "", "", "🐱", "!"]
    assert pieces(Bytes(), "a🐱".encode()[:-1]) == ["a", "", "", "\N{REPLACEMENT CHARACTER}"], "what is cut is shown so"


def test_the_trace_names_a_planted_channel(vlm, explained):
    trace = explained.trace
    assert trace is not None and trace.channel in TRUTH["channels"] and trace.written_by == TRUTH["layer"]
    assert trace.read_by == f"model.language_model.layers.{TRUTH['layer'] + 1}.input_layernorm"
    vlm.model.get_submodule(trace.read_by)
    behind = trace.layers[trace.written_by + 1]
    assert behind.intact > 100 * behind.typical and behind.masked < behind.intact / 100
    assert trace.masked_rise == pytest.approx(explained.rise, abs=1e-3)
    assert trace.before_layer == TRUTH["layer"] + 1 and trace.restored_rise is not None


def test_one_number_that_is_put_back_is_there_and_nothing_else(vlm):
    layers, samples = vlm.engine.layers, tiny_models.samples(1)
    contexts, answer = vlm.embed([vlm.prompt(samples[0])]), vlm.encode("yes")

    def states() -> list[torch.Tensor]:
        with layers.watched() as seen:
            vlm.answer_log_probs(contexts, [answer])
        return [seen[i][0] for i in range(len(layers))]

    before = states()
    with layers.replaced(2, 1, 5, 77.0):
        after = states()
    assert torch.equal(before[1], after[1]) and not torch.equal(before[3], after[3])
    changed = (after[2] != before[2]).nonzero().tolist()
    assert changed in ([], [[0, 1, 5]]), "the hook that watches may run before that which puts the number there"
    assert all(torch.equal(a, b) for a, b in zip(before, states(), strict=True))


def test_the_terminal_and_the_report_show_it(run, explained):
    shown = runner.invoke(app, ["explain", str(run)])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "promised at 0" in text and "pairs, masked" in text and f"hidden[{TRUTH['units'][0]}]" in text


def test_what_cannot_be_explained_is_said(vlm, run, tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        explain(tmp_path / "nowhere", vlm)
    none = tmp_path / "none"
    few: dict[str, Any] = OPTIONS | {"max_k": 1}
    Study(vlm, out=none, **few).run()
    with pytest.raises(OptionError, match="no critical set to explain"):
        explain(none, vlm)
    folder = Path(shutil.copytree(run, tmp_path / "large"))
    result = Result.load(folder)
    large = result.model_copy(update={"minimal_set": None, "k_star": 300})
    RunDirectory(folder).write_json(rundir.RESULT, large.model_dump())
    with pytest.raises(OptionError, match="has 300 neurons; expected at most 12"):
        explain(folder, vlm)
    RunDirectory(folder).write_json(rundir.EXPLANATION, {})
    with pytest.raises(RunError, match="run lesion explain again"):
        Explanation.load(folder)
    assert Explanation.load(tmp_path) is None


def dose(alone: float | None, promised: float | None) -> NeuronDose:
    neuron = NeuronEntry(path="a", component="language", role="hidden", layer=0, index=1, width=4)
    return NeuronDose(neuron=neuron, alone=alone, promised=promised, doses=[DoseEntry(factor=0.0, rise=alone, collapsed=None)])


@pytest.mark.parametrize(
    ("alone", "promised", "told"),
    [(4.0, 2.0, True), (4.0, 1.9, False), (None, 5.0, False), (0.01, 0.0, None), (4.0, None, None), (-1.0, 3.0, None)],
)
def test_whether_the_gradient_would_have_told(alone, promised, told):
    assert dose(alone, promised).told is told


@pytest.mark.parametrize(
    ("masked", "restored", "before", "undone"),
    [(2.0, 0.9, 12, True), (2.0, 1.1, 12, False), (None, 1.0, 12, True), (2.0, None, 12, False), (0.01, 0.0, 12, None),
     (2.0, None, None, None)],
)  # fmt: skip
def test_whether_the_number_undoes_the_harm(masked, restored, before, undone):
    trace = Trace(
        channel=5, token=0, token_class="first", written_by=11, read_by=None, number=2000.0, before_layer=before,
        masked_rise=masked, restored_rise=restored, layers=[TraceEntry(layer=12, intact=2000.0, masked=1.0, typical=2.0)],
    )  # fmt: skip
    assert trace.undone is undone
    words = " ".join(trace.sentences())
    assert "written by layer 11." in words and ("With that one number put back" in words) == (undone is not None)


def test_a_set_found_by_measuring_comes_first(vlm, tmp_path):
    options: dict[str, Any] = OPTIONS | {"search": "measured", "search_budget": 60, "shortlist": 20}
    result = Study(vlm, out=tmp_path / "run", **options).run()
    assert result.searched is not None and result.searched.neurons is not None
    explained = explain(tmp_path / "run", vlm)
    assert explained.source == "search"
    found = NeuronSet(n.neuron() for n in result.searched.neurons)
    assert NeuronSet(n.neuron() for n in explained.neurons) == found
