"""k* measured again, one sample at a time: the same for every batch size, and a note where it comes out otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lesion import Study
from lesion.ablation.evaluator import Evaluator
from lesion.ablation.measure import Ablation
from lesion.ablation.replies import MaskedReplies
from lesion.core.criterion import FunctionCriterion
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study.run import Run
from lesion.study.rundir import RunDirectory

OPTIONS: dict[str, Any] = {"data": "questions", "samples": 8, "controls": 1, "max_new_tokens": 2, "clip": "none"}
NEVER = FunctionCriterion("never", "nothing has collapsed", lambda intact, masked: False)


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")


def test_it_is_the_same_for_every_batch_size(vlm: VisionLanguageModel, tmp_path: Path):
    measured = []
    for size in (1, 3):
        result = Study(vlm, out=tmp_path / str(size), batch_size=size, **OPTIONS).run()
        assert result.k_star is not None and result.confirmed is not None and result.confirmed.holds
        before, last = result.confirmed.points
        assert before.k < last.k == result.k_star and (before.alone, last.alone) == ("standing", "collapsed")
        assert f"Measured again one sample at a time: k = {before.k} and k = {last.k}" in " ".join(result.confidence())
        with RunDirectory.open(result.run, Study(vlm, batch_size=size, **OPTIONS).options) as run:
            measured.append([run.evaluation(point.evaluation) for point in result.confirmed.points])
        assert {p.evaluation for p in result.confirmed.points}.isdisjoint(p.evaluation for p in result.curve)
    assert measured[0] == measured[1] and None not in measured[0]


def test_every_row_goes_through_the_model_by_itself(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch):
    images = load_samples("questions", 4)
    prompts = [vlm.prompt(sample) for sample in images]
    intact = vlm.generate(vlm.embed(prompts), 2)
    masked = NeuronSet([Neuron(vlm.sites.select("language", "gate")[0], 0)])
    seen: dict[bool, set[int]] = {}
    for alone in (False, True):
        rows = seen[alone] = set()
        handle = vlm.model.get_submodule("lm_head").register_forward_pre_hook(lambda _, args, rows=rows: rows.add(len(args[0])))
        replies = MaskedReplies(vlm, prompts, intact, intact, 2, 4, alone=alone)
        Evaluator(vlm, images, intact, None, replies)(masked)
        handle.remove()
    assert seen[True] == {1} and max(seen[False]) == 4


def test_where_it_comes_out_otherwise_a_note_says_so(vlm: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = Run.ablate

    def ablate(self: Run, alone: bool = False) -> Ablation:
        ablation = original(self, alone)
        if alone:
            ablation.criterion = NEVER
        return ablation

    monkeypatch.setattr(Run, "ablate", ablate)
    result = Study(vlm, out=tmp_path / "run", batch_size=4, **OPTIONS).run()
    assert result.confirmed is not None and not result.confirmed.holds and result.k_star == 4
    assert (
        "rounding decides at k = 4: with --batch-size 4 the model has collapsed, and one sample at a time it stands"
        in result.notes
    )
    assert "Measured again" not in " ".join(result.confidence())
