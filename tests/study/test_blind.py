"""What a ranking does not see: a neuron that flattens its own gradient is named by what masking it alone does."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from lesion import Result, Study
from lesion.cli.show_study import show_result
from lesion.core.collapse import Collapse
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site, Sites
from lesion.data.samples import Sample
from lesion.models.inputs import Answer
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.report.html import write_report
from lesion.scoring.score import score
from lesion.study import rundir
from lesion.study.blind import NATS, TIMES, first_of, is_far_beyond
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.result import Blind, FirstOrder, MaskedAlone
from lesion.study.verdict import Verdict
from tests import results, tiny_models
from tests.report.pages import plain

LAYER, CHANNEL, BY = 1, 3, 3000.0
"""The channel that is made to write nearly all of the residual stream."""
SHARPER = 8.0
"""The random model is made sure of its answers, so that there is something to lose."""
OPTIONS: dict[str, Any] = {
    "role": "down", "samples": 12, "controls": 0, "clip": "none", "criterion": "perplexity", "max_new_tokens": 4,
}  # fmt: skip
HARM = "does more harm than the first of this ranking does alone: first by activation, and number 17 of this ranking."
QUICK: dict[str, Any] = {"data": "questions", "samples": 8, "controls": 0, "max_new_tokens": 2, "clip": "none"}


def saturated(times: float = BY) -> VisionLanguageModel:
    """The norms behind layer 1 divide by what its channel 3 writes, so that hardly any gradient comes back to it."""
    vlm = tiny_models.llava()
    with torch.no_grad():
        down(vlm)[CHANNEL] *= times
        vlm.model.lm_head.weight *= SHARPER
    return vlm


def down(vlm: VisionLanguageModel) -> torch.Tensor:
    return vlm.model.model.language_model.layers[LAYER].mlp.down_proj.weight


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blind") / "pictures"
    folder.mkdir()
    for sample in tiny_models.samples(OPTIONS["samples"]):
        assert sample.image is not None
        sample.image.save(folder / f"{sample.id}.png")
    return folder


@pytest.fixture(scope="module")
def found(pictures: Path) -> Result:
    return Study(saturated(), data=str(pictures), out=pictures.parent / "run", **OPTIONS).run()


def seen(result: Result) -> tuple[Blind, MaskedAlone]:
    assert result.blind is not None and result.blind.alone is not None
    return result.blind, result.blind.alone


def rise(result: Result, k: int) -> float:
    """Of the mean NLL of the intact answers with the top k masked, as the curve has it."""
    before, after = (next(p for p in result.curve if p.k == at).metrics["nll_reference"] for at in (0, k))
    assert before is not None and after is not None
    return after - before


def measured_on(result: Result, vlm: VisionLanguageModel, pictures: Path) -> float:
    """Mean NLL of the intact answers' tokens on the measured samples, of a model without any hook."""
    from PIL import Image

    kept = json.loads((Path(result.run) / rundir.ANSWERS).read_text())["answers"]
    total = count = 0.0
    for id in (s.id for s in result.sample_list if s.measured_on):
        prompt = vlm.prompt(Sample(id, Image.open(pictures / id).convert("RGB"), None, None), result.options["prompt"])
        answer = Answer(tuple(kept[id]["ids"]), kept[id]["text"])
        (log_probs,) = vlm.answer_log_probs(vlm.embed([prompt]), [answer])
        total -= float(log_probs.double().gather(1, torch.tensor(answer.ids)[:, None]).sum())
        count += len(answer.ids)
    return total / count


def test_a_neuron_that_flattens_its_own_gradient_is_named(found):
    """It is first by activation, far down by CAN, and masked alone it collapses the model."""
    _, alone = seen(found)
    assert (alone.neuron.layer, alone.neuron.role, alone.neuron.index) == (LAYER, "down", CHANNEL)
    assert alone.rank is not None and found.k_star is not None and alone.rank > 10 > found.k_star
    assert alone.collapsed is True and alone.missed


def test_what_it_does_is_what_a_model_without_its_weights_does(found, pictures):
    """Its row of the out-projection is set to 0 instead of its activation; no hook, no mask."""
    _, alone = seen(found)
    intact, without = measured_on(found, saturated(), pictures), measured_on(found, saturated(0.0), pictures)
    assert alone.rise == pytest.approx(without - intact, rel=1e-4) and without - intact > 10
    for measured, nll in ((alone.before, intact), (alone.after, without)):
        assert measured["ppl_reference"] == pytest.approx(math.exp(nll), rel=1e-3)
    assert alone.before == {name: found.baseline[name] for name in alone.before}
    assert alone.rise_of_first == pytest.approx(rise(found, 1))


def test_the_promise_is_the_sum_of_the_taylor_importances(found, pictures):
    """Of the samples that were ranked on, scored anew; the rise is the curve's."""
    from PIL import Image

    blind, _ = seen(found)
    assert [(o.of, o.k) for o in blind.first_order] == [("top k", 1), ("minimal set", 1)], "up to k*, and the minimal set"
    vlm = saturated()
    kept = json.loads((Path(found.run) / rundir.ANSWERS).read_text())["answers"]
    ids = [s.id for s in found.sample_list if s.ranked_on]
    pictured = [Sample(id, Image.open(pictures / id).convert("RGB"), None, None) for id in ids]
    prompts = [vlm.prompt(sample, found.options["prompt"]) for sample in pictured]
    targets = [Answer(tuple(kept[id]["ids"]), kept[id]["text"]) for id in ids]
    sites = vlm.sites.select("language", "down")
    made = score(vlm.model, sites, vlm.batches(prompts, targets, 1), "taylor")["taylor"]
    site = sites.get(f"{found.top[0].path}:down")
    assert site is not None
    order = blind.first_order[0]
    assert order.promised == pytest.approx(made.values(site)[found.top[0].index], rel=1e-4)
    after, before = found.curve[1].metrics["ppl_reference"], found.baseline["ppl_reference"]
    assert after is not None and before is not None and order.measured == pytest.approx(math.log(after / before), rel=1e-6)
    assert blind.beyond == order and math.log(after / before) > max(NATS, TIMES * order.promised)


def test_everyone_who_shows_the_answer_says_so(found, tmp_path):
    blind, alone = seen(found)
    assert len(blind.warnings) == 3 and set(blind.warnings) <= set(found.notes)
    missed, beyond, advice = blind.warnings
    assert f"{alone.neuron} is first by activation and number {alone.rank} of 48 in the ranking (can)" in missed
    assert "masked alone it collapses the model (perplexity of the intact answers from 1." in missed
    assert "alone raises the mean NLL of the intact answers by 2.304 nats" in beyond
    assert "the gradient at the intact model promises 0.02622 at most" in beyond
    assert advice.startswith("to see what this ranking may miss, rank with --scorer activation") and "compare" in advice
    sentence = f"Masked alone, {alone.neuron} collapses random-llava too: first by activation, and number {alone.rank} of this"
    assert sentence in found.verdict
    page = write_report(found, tmp_path / "report.html").read_text()
    for text in (sentence, "What the ranking may not see", *blind.warnings, "That collapses the model."):
        assert text in plain(page), text
    assert '<td class="n">0.02622</td><td class="n">2.304</td><td class="n">87.9</td>' in page
    said = io.StringIO()
    show_result(found, Console(file=said, width=500))
    line = f"first by activation: {alone.neuron}, number {alone.rank} in the ranking (can); masked alone: collapsed, perplexity"
    assert line in said.getvalue()
    assert "top 1 2.304 measured, at most 0.02622 promised" in said.getvalue()


def test_a_resume_measures_nothing_twice(found, pictures):
    """Also where the stage was done but its line is gone, or the process was killed between the line and the file."""
    run, options = Path(found.run), {"data": str(pictures), "out": found.run, **OPTIONS}
    lines, before = run / rundir.EVALUATIONS, (run / rundir.EVALUATIONS).read_bytes()
    for gone in ((rundir.BLIND,), (rundir.BLIND, rundir.RESULT)):
        for name in gone:
            (run / name).unlink()
        assert Study(saturated(), **options).run() == found and lines.read_bytes() == before
    assert Study(saturated(), **options).run(start="blind") == found and lines.read_bytes() == before
    results.rewrite(run / rundir.BLIND, {"alone": 3})
    assert Study(saturated(), **options).run(start="result") == found, "another version's is made anew"
    assert lines.read_bytes() == before
    _, alone = seen(found)
    kept = [line for line in before.splitlines(keepends=True) if json.loads(line)["key"] != alone.evaluation]
    lines.write_bytes(b"".join(kept))
    assert Study(saturated(), **options).run(start="result") == found
    assert [json.loads(line)["key"] for line in lines.read_bytes().splitlines()][-1] == alone.evaluation, "measured again"


def test_a_ranking_by_activation_has_nothing_to_be_told(pictures, tmp_path):
    """It masks that neuron first. The first order is beside the point, and not warned of."""
    result = Study(saturated(), data=str(pictures), out=tmp_path / "run", **OPTIONS, scorer="activation").run()
    assert result.k_star == 1 and (result.top[0].layer, result.top[0].index) == (LAYER, CHANNEL)
    assert result.blind is not None and result.blind.alone is None and result.blind.beyond is not None
    assert result.blind.warnings == [] and "Masked alone" not in result.verdict


def test_a_ranking_of_ones_own_may_not_have_the_neuron(found, pictures, tmp_path):
    """The rule is the same; that the gradient is blind is not said, since it did not rank."""
    vlm = saturated()
    NeuronSet([n.neuron() for n in found.top[:2]]).fit(vlm.sites).save(tmp_path / "own.json")
    options = {**OPTIONS, "neurons": str(tmp_path / "own.json")}
    result = Study(vlm, data=str(pictures), out=tmp_path / "run", **options).run()
    blind, alone = seen(result)
    assert alone.rank is None and alone.missed and alone.evaluation == seen(found)[1].evaluation
    assert "is first by activation and not in the ranking (own.json); masked alone it collapses the model" in blind.warnings[0]
    assert "and not in this ranking." in result.verdict and not any("promises" in line for line in blind.warnings)


def test_other_masks_are_not_held_against_the_first_order(pictures, tmp_path):
    scale, first, image = {"mask": "scale:0.5"}, {"mask_positions": "first"}, {"positions": "image"}
    others: dict[str, dict[str, Any]] = {"scale": scale, "first": first, "image": image}
    for name, more in others.items():
        result = Study(saturated(), data=str(pictures), out=tmp_path / name, **OPTIONS, max_k=1, **more).run()
        assert result.blind is None or (result.blind.first_order == [] and result.blind.beyond is None)


@pytest.fixture(scope="module")
def llava() -> VisionLanguageModel:
    return load("tiny-llava")


def test_tiny_llava_has_its_strongest_neuron_first(llava, tmp_path):
    """No neuron was missed. Its seeded neurons do together what none of them does alone, which no first order tells."""
    result = Study(llava, out=tmp_path / "run", **QUICK).run()
    assert result.blind is not None and result.blind.alone is None and "Masked alone" not in result.verdict
    orders = {o.k: o for o in result.blind.first_order if o.of == "top k"}
    assert list(orders) == [1, 2, 3, 4] and result.k_star == 4
    for k, order in orders.items():
        assert order.measured == pytest.approx(rise(result, k))
    assert rise(result, 3) < orders[3].promised and rise(result, 4) > 60 * orders[4].promised
    assert result.blind.beyond is None and result.blind.warnings == [], "together, not alone"


def test_a_neuron_that_does_little_is_kept_and_not_warned_of(tmp_path):
    """tiny-instructblip's first gate neuron by activation is not among the first by CAN, and masking it is harmless."""
    options: dict[str, Any] = {"controls": 0, "max_new_tokens": 16, "samples": 8, "max_k": 2}
    result = Study("tiny-instructblip", out=tmp_path / "run", **options).run()
    blind, alone = seen(result)
    assert alone.rank is not None and alone.rank > result.largest_k and result.k_star is None
    assert alone.collapsed is False and not alone.missed and abs(alone.rise or 1) < 0.05
    assert blind.beyond is None and blind.warnings == [] and not set(blind.warnings) & set(result.notes)
    assert "Masked alone" not in result.verdict
    assert Result.load(result.run).blind == blind


def test_nothing_to_look_at_is_null_and_stays_so(llava, tmp_path):
    options = {**QUICK, "mask": "scale:0.5", "max_k": 1, "samples": 2}
    result = Study(llava, out=tmp_path / "run", **options).run()
    file = tmp_path / "run" / rundir.BLIND
    assert result.blind is None and json.loads(file.read_text()) is None
    (tmp_path / "run" / rundir.RESULT).unlink()
    before = file.stat().st_mtime_ns
    assert Study(llava, out=tmp_path / "run", **options).run() == result and file.stat().st_mtime_ns == before


def test_a_result_from_before_there_was_such_a_stage_is_read(found, tmp_path):
    old = json.loads((Path(found.run) / rundir.RESULT).read_text())
    del old["blind"]
    (tmp_path / rundir.RESULT).write_text(json.dumps(old))
    assert Result.load(tmp_path).blind is None


@pytest.mark.parametrize(
    ("k_star", "rank", "collapsed", "missed", "ends"),
    [
        (2, 17, True, True, "collapses toy too: first by activation, and number 17 of this ranking."),
        (None, 1234, True, True, "collapses toy: first by activation, and number 1,234 of this ranking."),
        (2, None, True, True, "collapses toy too: first by activation, and not in this ranking."),
        (None, 17, False, True, HARM),
        (None, 17, None, True, HARM),
        (2, 17, False, False, None),
    ],
)  # fmt: skip
def test_the_verdict_says_what_was_measured_and_no_more(
    k_star: int | None, rank: int | None, collapsed: bool | None, missed: bool, ends: str | None
):
    neuron = NeuronEntry(path="layers.1.mlp.down_proj", component="language", role="down", layer=1, index=3, width=16)
    alone = MaskedAlone(
        neuron=neuron, rank=rank, before={}, after={}, rise=1.0, rise_of_first=0.5, collapsed=collapsed, missed=missed,
        evaluation="key",
    )  # fmt: skip
    fell = () if k_star is None else (k_star,)
    collapse = Collapse(None, k_star, (None, None), 4, True, fell, (), 8, None, {})
    said = str(Verdict("toy", "language", "down", 2000, collapse, [("language", 0)] * (k_star or 0), alone=alone))
    assert ("Masked alone" in said) is (ends is not None)
    assert ends is None or said.endswith(f" Masked alone, language layer 1 down[3] {ends}")


@pytest.mark.parametrize(
    ("promised", "measured", "far"),
    [
        (0.2, 2.1, True), (0.2, 2.0, False), (0.05, 1.0, False), (0.05, 1.01, True),
        (0.0, 1.5, True), (0.0, 0.5, False), (1.0, None, True), (0.1, -5.0, False),
    ],
)  # fmt: skip
def test_far_beyond_is_more_than_ten_times_and_more_than_a_nat(promised: float, measured: float | None, far: bool):
    assert is_far_beyond(FirstOrder(of="top k", k=2, promised=promised, measured=measured)) is far


def test_the_first_neuron_is_the_largest_and_of_equals_the_earliest():
    sites = Sites(Site(f"layers.{i}.mlp.down_proj", "language", "down", i, 3) for i in range(3))
    values = ([1.0, 4.0, 4.0], [math.nan, 4.0, 0.0], [0.0, 2.0, 3.0])
    sums = {site.key: 2 * np.array(v) for site, v in zip(sites, values, strict=True)}
    first = first_of(Importance("activation", {}, sites, sums, samples=2), sites)
    assert (first.site.layer, first.index) == (0, 1)
    sums[sites[2].key] = np.array([0.0, math.inf, 3.0])
    first = first_of(Importance("activation", {}, sites, sums, samples=2), sites)
    assert (first.site.layer, first.index) == (2, 1)
