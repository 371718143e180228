"""A session opens everything in one order, computes everything once, and says under what key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lesion.ablation.replies import MaskedReplies
from lesion.core.errors import DataError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.data.samples import load_samples
from lesion.hooks.intervention import Intervention, get_intervention
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.options import ScoreOptions
from lesion.study.importances import importances as score_all
from lesion.study.options import StudyOptions
from lesion.study.session import Session
from lesion.study.statistics import scorers_for
from tests import tiny_models

OPTIONS = {"samples": 4, "max_new_tokens": 4, "batch_size": 2, "clip": "none"}


def parse(**options) -> StudyOptions:
    return StudyOptions.parse(**{"model": "random-llava", **OPTIONS, **options})


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return tiny_models.llava()


@pytest.fixture
def session(vlm: VisionLanguageModel, tmp_path: Path) -> Iterator[Session]:
    with Session.open(parse(), vlm, tmp_path / "run") as session:
        yield session


def importances(session: Session, samples, act: Intervention | None = None, file: str = "importance.safetensors"):
    statistics = scorers_for(act) if act else []
    return score_all(session, samples, ("can", *statistics), ScoreOptions(), file)


def top(session: Session, samples, k: int = 3) -> NeuronSet:
    return Ranking(importances(session, samples)["can"], session.sites).top(k)


def count_calls(monkeypatch: pytest.MonkeyPatch, vlm: Any, name: str) -> list[int]:
    calls: list[int] = []
    original = getattr(vlm, name)
    monkeypatch.setattr(vlm, name, lambda *args: (calls.append(1), original(*args))[1])
    return calls


def test_answers_and_importances_are_computed_once(vlm, tmp_path, monkeypatch):
    generated, scored = count_calls(monkeypatch, vlm, "generate"), count_calls(monkeypatch, vlm, "batches")
    values = []
    for calls in ((2, 1), (0, 0)):  # four samples, two a batch; then everything is read
        with Session.open(parse(), vlm, tmp_path / "run") as session:
            before = len(generated), len(scored)
            importance = importances(session, list(session.samples.values()))["can"]
            assert session.answers
            values.append([importance.values(site) for site in session.vlm.sites.select()])
            assert (len(generated) - before[0], len(scored) - before[1]) == calls
    assert all((a == b).all() for a, b in zip(*values, strict=True))


def test_a_mask_is_measured_once(session, monkeypatch):
    samples = list(session.samples.values())
    neurons = top(session, samples)
    ablation = session.ablation(samples)
    one = ablation(neurons)
    generated = count_calls(monkeypatch, MaskedReplies, "_ask")
    assert session.ablation(samples)(neurons) == one == ablation(neurons) and one.key
    assert not generated
    ablation(NeuronSet())
    assert generated


def test_keys_tell_apart_what_can_differ(session):
    samples = list(session.samples.values())
    neurons, halves = top(session, samples), (samples[:2], samples[2:])
    keys = {session.ablation(part).key(neurons) for part in (samples, *halves)}
    for mask in ("mean", "class-mean"):
        # Mean values come from the samples that were ranked on.
        act = get_intervention(mask)
        for number, ranked in enumerate(halves):
            values = importances(session, ranked, act, f"{mask}-{number}.safetensors")
            keys.add(session.ablation(samples, act, values).key(neurons))
    for act in ("scale:0.5", "scale:0.25", "constant:1"):
        keys.add(session.ablation(samples, get_intervention(act)).key(neurons))
    for positions in ("first", "image", "text", "generated"):
        keys.add(session.ablation(samples, get_intervention("zero", positions)).key(neurons))
    keys.add(session.ablation(samples).key(top(session, samples, 4)))
    assert len(keys) == 3 + 4 + 3 + 4 + 1
    intact = {session.ablation(samples, get_intervention(act)).key(NeuronSet()) for act in ("zero", "scale:0.5")}
    assert len(intact) == 1, "without neurons it is the intact model, whatever would become of them"


@pytest.mark.parametrize(
    "options", [{"prompt": "what is it ?"}, {"max_new_tokens": 5}, {"target": "reference"}, {"seed": 1}, {"clip": "tiny-clip"}]
)
def test_options_that_decide_a_measurement_are_in_its_key(vlm, session, tmp_path, options):
    neurons, keys = NeuronSet([Neuron(session.sites[0], 1)]), []
    for number, more in enumerate(({}, options)):
        with Session.open(parse(**more), vlm, tmp_path / f"run-{number}") as other:
            keys.append(other.ablation().key(neurons))
    assert keys[0] != keys[1]


def test_the_models_weights_are_in_the_key_and_its_name_is_not(vlm, tmp_path):
    keys = []
    others = (vlm, VisionLanguageModel(vlm.model, vlm.processor, "copy"), tiny_models.llava(seed=1))
    for number, model in enumerate(others):
        with Session.open(parse(), model, tmp_path / f"run-{number}") as session:
            keys.append(session.ablation().key(NeuronSet()))
    assert keys[0] == keys[1] != keys[2]


def test_every_mask_can_be_measured(session):
    samples = list(session.samples.values())
    neurons, answers = top(session, samples, 24), {}
    for mask in ("zero", "mean", "class-mean", "scale:0.5"):
        act = get_intervention(mask)
        values = importances(session, samples, act, f"{mask.replace(':', '-')}.safetensors")
        answers[mask] = session.ablation(samples, act, values)(neurons).nll
    assert len({tuple(nll) for nll in answers.values()}) == 4


def test_a_statistic_that_was_not_measured_is_named(session):
    class Odd(Intervention):
        needs = ("median",)

        def value(self, x, at):
            return x

    with pytest.raises(OptionError, match="needs the statistic 'median'; those that are measured: mean, class-mean"):
        session.ablation(None, Odd(), {})


def test_all_samples_are_measured_where_nothing_is_ranked(vlm, tmp_path):
    with Session.open(parse(), vlm, tmp_path / "run", ranks=False) as session:
        assert len(session.measured) == 4
    with Session.open(parse(), vlm, tmp_path / "halves", more=load_samples("scenes", 6, seed=9)) as session:
        assert (len(session.ranked), len(session.measured)) == (2, 2) and len(session.samples) > 4


def test_the_model_is_given_back_as_it_was(vlm, tmp_path):
    vlm.generate(vlm.embed([vlm.prompt(load_samples("scenes", 1)[0])]), 2)
    hooks = tiny_models.hook_count(vlm.model)  # transformers hangs some of its own on a model that runs
    vlm.model.train()
    wanted = [p.requires_grad for p in vlm.model.parameters()]
    assert all(wanted)
    with Session.open(parse(), vlm, tmp_path / "run") as session:
        assert not any(p.requires_grad for p in vlm.model.parameters()) and not vlm.model.training
        importances(session, session.ranked)
    assert [p.requires_grad for p in vlm.model.parameters()] == wanted and vlm.model.training
    assert tiny_models.hook_count(vlm.model) == hooks
    vlm.model.eval()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_k": 73}, OptionError, "max_k is 73; there are 72 neurons"),
        ({"component": "qformer"}, OptionError, "component 'qformer' is not in this model"),
        ({"component": "vision"}, OptionError, "role 'gate' is not in component 'vision'"),
        ({"layers": "3"}, OptionError, "layer 3 is not among the chosen sites"),
        ({"samples": 1}, DataError, "one usable image"),
        ({"data": "nowhere"}, DataError, "nowhere"),
        ({"category": "unicorn"}, DataError, "scenes have no category 'unicorn'"),
        ({"component": "vision", "role": "hidden", "mask_positions": "first"}, OptionError, "tokens of the language model"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(vlm, tmp_path, options, error, says):
    with pytest.raises(error, match=says), Session.open(parse(**options), vlm, tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_note_is_said_once(session):
    session.note("twice")
    session.note("twice")
    assert session.notes.count("twice") == 1
