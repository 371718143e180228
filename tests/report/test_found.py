"""What the report says of a measured search and of an explanation, and the code by which a mask is repeated."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lesion.core.neurons import Neuron, NeuronSet
from lesion.hooks.intervene import mask
from lesion.report.explained import ExplainedView
from lesion.report.found import FoundView, trail
from lesion.report.html import write_report
from lesion.report.snippets import Repeat, snippets
from lesion.study.control_entry import ControlEntry
from lesion.study.explanation import (
    AnswerEntry,
    DoseEntry,
    Explanation,
    NeuronDose,
    PairEntry,
    SetDose,
    TokenLosses,
    Trace,
    TraceEntry,
)  # fmt: skip
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.result import Result
from lesion.study.rundir import EXPLANATION
from lesion.study.searched import CandidateEntry, Searched, SingleEntry, StepEntry, SubsetEntry
from tests import results, tiny_models
from tests.report.pages import plain


def neuron(layer: int, index: int, role: str = "hidden") -> NeuronEntry:
    return NeuronEntry(
        path=f"model.layers.{layer}.mlp.down_proj", component="language", role=role, layer=layer, index=index, width=64
    )


FOUND = [neuron(2, 3), neuron(5, 7)]


def searched(**changed: Any) -> Searched:
    base: dict[str, Any] = {
        "budget": 100, "spent": 80, "passes": 4, "ended": True, "shortlist": 30, "samples": 6,
        "steps": [
            StepEntry(spent=1, size=1, rise=0.1, collapsed=False), StepEntry(spent=40, size=9, rise=None, collapsed=True),
            StepEntry(spent=60, size=2, rise=3.0, collapsed=True),
        ],
        "singles": [SingleEntry(neuron=FOUND[0], rise=0.1, collapsed=False)],
        "candidates": [
            CandidateEntry.model_validate({"neurons": FOUND, "collapsed": True, "evaluation": "x", "ppl_reference": 9.0})
        ],
        "neurons": FOUND, "level": "subset-minimal",
        "subsets": [SubsetEntry(members=[0], collapsed=False), SubsetEntry(members=[1], collapsed=False)],
        "controls": [ControlEntry(kind="channel", seed=0, k=2, collapsed=False, evaluation="y")],
    }  # fmt: skip
    return Searched(**base | changed)


def explanation() -> Explanation:
    doses = [DoseEntry(factor=f, rise=r, collapsed=False) for f, r in ((2.0, 0.1), (0.5, -0.001), (0.0, 0.2))]
    together = [
        SetDose(factor=f, collapsed=c, rise=r, answers=[AnswerEntry(sample=f"m{i}", answer=f"{f:g} <b>", mode="gibberish")
                                                        for i in range(6)])
        for f, r, c in ((2.0, 0.3, False), (0.5, 1.0, None), (0.0, None, True))
    ]  # fmt: skip
    return Explanation(
        source="search", neurons=FOUND, samples=6, rise=None, sum=0.4,
        pairs=[PairEntry(members=(0, 1), rise=4.0, sum=0.4, interplay="synergy")],
        doses=[NeuronDose(neuron=n, alone=0.2, promised=0.01, doses=doses) for n in FOUND], together=together,
        trace=Trace(channel=9, token=0, token_class="first", written_by=2, read_by="model.layers.3.norm", number=500.0,
                    before_layer=6, masked_rise=4.0, restored_rise=0.1,
                    layers=[TraceEntry(layer=3, intact=500.0, masked=1.0, typical=0.5)]),
        losses=[TokenLosses(
            sample="m0", tokens=["A ", "<cat>", "", "."], intact=[0.1, 0.2, 0.3, 4.0], masked=[0.59, 2.3, None, 3.0],
        )],
    )  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> str:
    result = results.result(searched=searched())
    results.save(result, tmp_path)
    sample = [s.id for s in result.sample_list if s.measured_on]
    made = explanation()
    for dose in made.together:
        for answer, name in zip(dose.answers, sample, strict=True):
            answer.sample = name
    (tmp_path / EXPLANATION).write_text(made.model_dump_json())
    return write_report(Result.load(tmp_path), tmp_path / "page.html").read_text()


def test_both_answers_stand_side_by_side(page):
    text = plain(page)
    assert "Fewest found by measuring" in text and "subset-minimal" in text
    assert "80 of 100 sets were measured on the 6 samples" in text and "on which 1 set was measured" in text
    assert "All 2 parts that were measured leave the model standing." in text
    assert "Sets that write the same channels: 1 of 1 leave the model standing." in text


def test_why_is_shown_with_its_doses(page):
    text = plain(page)
    assert "1 pair of 1: synergy" in text and "most of the harm is that this number is gone" in text
    assert "For 2 neurons the gradient at the intact model promised less than half" in text
    data = json.loads(re.findall(r'<script type="application/json" class="payload">(.*?)</script>', page)[-1])
    assert data["factors"] == ["2", "1", "0.5", "0"] and data["start"] == 1
    assert data["states"] == ["standing", "intact", "undecided", "collapsed"]
    assert data["answers"][3][0] == "0 <b>" and "0 <b>" not in page, "texts cannot end the element that holds them"


def test_each_token_of_an_answer_is_marked_by_how_much_its_loss_rises(page):
    [row] = re.findall(r'<dl class="tokens">.*?<dd dir="auto">(.*?)</dd>', page)
    marks = re.findall(r'<span class="l(\d)" title="([^"]+)">([^<]*)</span>', row)
    assert marks == [
        ("0", "0.10 to 0.59 nats", "A "), ("2", "0.20 to 2.30 nats", "&lt;cat&gt;"), ("4", "0.30 to not finite nats", "·"),
        ("0", "4.00 to 3.00 nats", "."),
    ]  # fmt: skip


def test_result_json_is_in_the_page(page):
    [link] = re.findall(r'href="data:application/json;base64,([^"]+)"', page)
    assert Result.model_validate_json(base64.b64decode(link)).searched == searched()


def test_a_page_without_a_search_has_neither(tmp_path):
    result = results.result()
    results.save(result, tmp_path)
    text = plain(write_report(Result.load(tmp_path), tmp_path / "page.html").read_text())
    assert "Fewest found" not in text and "Alone, together, scaled" not in text


def test_the_trail_goes_from_the_first_set_to_the_last(page):
    drawn = trail(searched())
    assert [m.style for m in drawn.marks] == ["standing", "fallen", "fallen"]
    assert drawn.marks[1].beyond and drawn.marks[1].y <= min(m.y for m in drawn.marks)
    assert [m.name for m in drawn.marks] == ["1", "9", "2"] and drawn.path.startswith("M") and drawn.path.endswith("H742")
    assert trail(searched(steps=[])).path == ""


@pytest.mark.parametrize(
    ("subsets", "words"),
    [
        ([], ""),
        ([SubsetEntry(members=[0], collapsed=True), SubsetEntry(members=[1], collapsed=None)],
         "0 of the 2 parts that were measured leave the model standing, 1 collapse it, of 1 the samples do not tell."),
    ],
)  # fmt: skip
def test_parts_that_do_not_stand_are_said(subsets, words):
    assert FoundView(searched(subsets=subsets)).parts == words


def test_the_matrix_has_alone_together_and_sum():
    rows = ExplainedView(explanation(), {}).pair_rows()
    assert rows == [(str(FOUND[0]), [("+0.20", ""), ("+4.00", "synergy")]), (str(FOUND[1]), [("+0.40", ""), ("+0.20", "")])]
    doses = ExplainedView(explanation(), {}).dose_rows()
    assert doses[0] == (str(FOUND[0]), [("+0.10", False), ("+0.00", False), ("+0.20", False)], "0.01")
    assert doses[2] == ("all of them", [("+0.30", False), ("+1.00", False), ("not finite", True)], "")


@pytest.mark.parametrize("role", ["gate", "up", "hidden", "down"])
def test_the_snippet_for_pytorch_does_what_a_mask_does(role):
    """Run as it is printed, on a model as transformers has it."""
    vlm = tiny_models.llava()
    sites = vlm.sites.select("language", role)
    neurons = NeuronSet([Neuron(sites[0], 1), Neuron(sites[0], 4), Neuron(sites[1], 2)])
    code = dict(snippets([NeuronEntry.of(n) for n in neurons]))
    inputs = vlm.prompt(tiny_models.samples(1)[0]).inputs
    with torch.no_grad(), mask(vlm.model, neurons):
        expected = vlm.model(**inputs).logits
    exec(code["PyTorch"], {"model": vlm.model})
    with torch.no_grad():
        assert torch.equal(vlm.model(**inputs).logits, expected)
    assert "NNsight(model)" in code["nnsight"] and "fwd_hooks" in code["TransformerLens"]


def test_there_is_no_snippet_where_it_would_not_be_right():
    assert snippets([]) == [] and snippets([neuron(0, i) for i in range(65)]) == []
    assert snippets([neuron(0, 1, role="head")]) == []
    assert snippets([neuron(0, 1).model_copy(update={"expert": 2})]) == []
    vision = neuron(0, 1).model_copy(update={"component": "vision"})
    assert [name for name, _ in snippets([vision])] == ["PyTorch", "nnsight"]
    for changed in ({"mask": "mean"}, {"mask_positions": "first"}):
        result = results.result()
        result.options |= changed
        assert Repeat.of(result).snippets == []


def test_the_smallest_set_is_repeated():
    assert Repeat.of(results.result(searched=searched())).neurons == FOUND
    assert Repeat.of(results.result(searched=searched())).what == "these 2 neurons"
