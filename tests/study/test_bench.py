"""A bench computes everything once, and says under what key."""

from __future__ import annotations

import pytest

from lesion.core.neurons import NeuronSet
from lesion.core.progress import Silent
from lesion.core.ranking import Ranking
from lesion.scoring.scorers import ScoreOptions
from lesion.study.bench import Bench, mean_scorers
from lesion.study.options import StudyOptions
from lesion.study.rundir import RunDirectory
from tests import tiny_models


@pytest.fixture
def bench(tmp_path):
    vlm = tiny_models.llava()
    options = StudyOptions.parse(model="tiny", max_new_tokens=4, batch_size=2)
    with RunDirectory.open(tmp_path / "run", options) as run:
        yield Bench(options, vlm, tiny_models.samples(4), None, run, Silent(), [])


def importances(bench, samples, mask="zero", file="importance.safetensors"):
    return bench.importances(samples, ("can", *mean_scorers(mask)), ScoreOptions(), file)


def top(bench, samples, k=3):
    return Ranking(importances(bench, samples)["can"], bench.vlm.sites.select("language", "gate")).top(k)


def count_calls(monkeypatch, bench, name):
    calls = []
    original = getattr(bench.vlm, name)
    monkeypatch.setattr(bench.vlm, name, lambda *args: (calls.append(1), original(*args))[1])
    return calls


def test_answers_and_importances_are_computed_once(bench, monkeypatch):
    samples = list(bench.samples.values())
    generated, scored = count_calls(monkeypatch, bench, "generate"), count_calls(monkeypatch, bench, "batches")
    first = importances(bench, samples)["can"]
    again = Bench(bench.options, bench.vlm, samples, None, bench.run, Silent(), [])
    second = importances(again, samples)["can"]
    assert len(generated) == 2 and len(scored) == 1  # four samples, two a batch
    for site in bench.vlm.sites:
        assert (first.values(site) == second.values(site)).all()


def test_a_mask_is_measured_once(bench, monkeypatch):
    samples = list(bench.samples.values())
    neurons = top(bench, samples)
    measure = bench.measuring(samples)
    one = measure(neurons)
    generated = count_calls(monkeypatch, bench, "generate")
    assert bench.measuring(samples)(neurons) == one and measure(neurons) == one
    assert not generated
    measure(NeuronSet())
    assert generated


def test_keys_tell_apart_what_can_differ(bench):
    samples = list(bench.samples.values())
    neurons, halves = top(bench, samples), (samples[:2], samples[2:])
    keys = {bench.measuring(part).key(neurons) for part in (samples, *halves)}
    for mask in ("mean", "class-mean"):
        # Mean values come from the samples that were ranked on.
        for number, ranked in enumerate(halves):
            found = importances(bench, ranked, mask, f"{mask}-{number}.safetensors")
            keys.add(bench.measuring(samples, mask, found).key(neurons))
    keys.add(bench.measuring(samples).key(top(bench, samples, 4)))
    assert len(keys) == 3 + 4 + 1


def test_every_mask_can_be_measured(bench):
    samples = list(bench.samples.values())
    neurons = top(bench, samples, 24)
    answers = {}
    for mask in ("zero", "mean", "class-mean"):
        found = importances(bench, samples, mask, f"{mask}.safetensors")
        answers[mask] = bench.measuring(samples, mask, found)(neurons).nll
    assert len({tuple(nll) for nll in answers.values()}) == 3
