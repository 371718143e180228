"""Each option of a study changes something that can be seen; options and criteria are data that replay a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lesion import Result, Study
from lesion.core.criterion import CRITERIA, CollapseCriterion, Condition, register_criterion
from lesion.core.errors import DataError, OptionError, RunError
from lesion.core.evaluation import Evaluation
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.models.vlm import VisionLanguageModel
from lesion.study import reading
from lesion.study.options import StudyOptions
from lesion.study.rundir import CONFIG, EVALUATIONS
from tests import tiny_models

ANY = CollapseCriterion(name="any-mask", conditions=(Condition(metric="empty", test="at-least", limit=0.0),))
"""Whatever is masked counts as a collapse, so that what comes after one is seen."""
MEASURED: dict[str, Any] = {"search": "measured", "search_budget": 12}
BASE: dict[str, Any] = {"samples": 4, "max_new_tokens": 4, "max_k": 2, "controls": 0, "minimal_limit": 0, "clip": "none"}


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return tiny_models.llava()


@pytest.fixture(scope="module")
def study(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs a small study, each question once."""
    done: dict[str, Result] = {}

    def run(**options: Any) -> Result:
        key = repr(sorted(options.items()))
        if key not in done:
            done[key] = Study(vlm, out=tmp_path_factory.mktemp("study") / "run", **{**BASE, **options}).run()
        return done[key]

    return run


def curve(result: Result) -> Any:
    return [p.metrics["nll_reference"] for p in result.curve]


def importances(result: Result) -> Any:
    return [n.importance for n in result.top]


def ids(result: Result) -> Any:
    return [s.id for s in result.sample_list]


def answers(result: Result) -> Any:
    return [o["answer"] for o in result.curve[0].outcomes]


SEEN: list[tuple[str, dict[str, Any], dict[str, Any], Callable[[Result], Any]]] = [
    # option, what both studies have, what one of them has, and where the difference is seen
    ("data", {}, {"data": "questions"}, lambda r: [s.prompt for s in r.sample_list]),
    ("category", {}, {"category": "dog"}, lambda r: {s.category for s in r.sample_list}),
    ("prompt", {}, {"prompt": "what is it ?"}, lambda r: ({s.prompt for s in r.sample_list}, curve(r))),
    ("component", {"role": "hidden"}, {"component": "vision"}, lambda r: (r.neurons_total, {n.component for n in r.top})),
    ("role", {}, {"role": "down"}, lambda r: (r.neurons_total, {n.role for n in r.top})),
    ("layers", {}, {"layers": "1-2"}, lambda r: (r.neurons_total, {n.layer for n in r.top})),
    ("scorer", {}, {"scorer": "taylor"}, lambda r: (r.scorer, importances(r))),
    ("alpha", {}, {"alpha": 0.5}, importances),
    ("aggregate", {}, {"aggregate": "max"}, importances),
    ("positions", {}, {"positions": "answer"}, importances),
    ("top", {}, {"top": 0.5}, lambda r: [n.consistency for n in r.top]),
    ("noise", {"scorer": "perturbation"}, {"noise": 0.4}, importances),
    ("ig_steps", {"scorer": "integrated-gradients", "ig_path": "all"}, {"ig_steps": 2}, importances),
    ("ig_path", {"scorer": "integrated-gradients", "ig_steps": 1}, {"ig_path": "all"}, importances),
    ("samples", {}, {"samples": 6}, lambda r: (r.samples, len(r.sample_list))),
    ("split", {}, {"split": "same"}, lambda r: [(s.ranked_on, s.measured_on) for s in r.sample_list]),
    ("target", {}, {"target": "reference"}, lambda r: r.baseline["nll_reference"]),
    ("mask", {}, {"mask": "scale:0.5"}, curve),
    ("mask", {}, {"mask": "mean"}, curve),
    ("mask", {"mask": "mean"}, {"mask": "class-mean"}, curve),
    ("mask_positions", {}, {"mask_positions": "image"}, curve),
    ("mask_positions", {"mask_positions": "first"}, {"mask_positions": "generated"}, curve),
    ("criterion", {}, {"criterion": ANY}, lambda r: (r.k_star, [p.collapsed for p in r.curve])),
    ("max_k", {}, {"max_k": 3}, lambda r: [p.k for p in r.curve]),
    ("max_new_tokens", {}, {"max_new_tokens": 6}, answers),
    ("controls", {"criterion": ANY}, {"controls": 2}, lambda r: len(r.controls)),
    ("search", {"search_budget": 12, "shortlist": 4}, {"search": "measured"}, lambda r: r.searched is None),
    ("search_budget", MEASURED, {"search_budget": 9}, lambda r: r.searched and r.searched.spent),
    ("shortlist", MEASURED, {"shortlist": 4}, lambda r: r.searched and r.searched.shortlist),
    ("minimal_limit", {"criterion": ANY}, {"minimal_limit": 1}, lambda r: (r.minimal_set is None, r.minimal_verified, r.notes)),
    ("clip", {}, {"clip": "tiny-clip"}, lambda r: (r.baseline["clip_score"] is None, r.chance_clip is None)),
    ("seed", {}, {"seed": 1}, ids),
]
ELSEWHERE = {
    "neurons", "force", "strict", "batch_size",  # below, in test_manifest.py, and in test_session.py (a call a batch)
    "threads",  # in test_threads.py
    "model", "dtype", "device", "trust_remote_code", "device_map", "quantization",  # in the test of what is loaded, below
}  # fmt: skip


@pytest.mark.parametrize(("option", "both", "one", "seen"), SEEN, ids=[f"{o}-{i}" for i, (o, *_) in enumerate(SEEN)])
def test_each_option_changes_what_it_says(study, option, both, one, seen):
    assert option in one
    without, with_it = study(**both), study(**{**both, **one})
    assert seen(without) != seen(with_it)
    expected = json.loads(ANY.model_dump_json()) if option == "criterion" else one[option]
    assert with_it.options[option] == expected, "it is recorded"


def test_every_option_is_tested():
    assert {option for option, *_ in SEEN} | ELSEWHERE == set(StudyOptions.model_fields)
    assert not {option for option, *_ in SEEN} & ELSEWHERE


def test_what_is_loaded(vlm, tmp_path, monkeypatch):
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(reading, "load", lambda *args: (calls.append(args), vlm)[1])
    monkeypatch.setattr(reading, "reads_text_alone", lambda *args: (calls.append(args), False)[1])
    placing = {
        "dtype": "bfloat16", "device": "cpu", "trust_remote_code": True, "device_map": "auto", "quantization": "8bit",
    }  # fmt: skip
    Study("org/model", out=tmp_path / "run", **BASE, **placing).run()
    assert calls == [("org/model", True), ("org/model", "bfloat16", "cpu", True, "auto", "8bit")]


def test_strict_stops_at_an_unreadable_image(vlm, tmp_path):
    (tmp_path / "images").mkdir()
    for sample in tiny_models.samples(3):
        sample.picture.save(tmp_path / "images" / f"{sample.id}.png")
    (tmp_path / "images" / "broken.png").write_text("no image")
    data = str(tmp_path / "images")
    result = Study(vlm, out=tmp_path / "run", data=data, **BASE).run()
    assert result.samples == 3 and any("broken.png" in note for note in result.notes)
    with pytest.raises(DataError, match=r"broken\.png.*leave out --strict"):
        Study(vlm, out=tmp_path / "strict", data=data, strict=True, **BASE).run()
    assert not (tmp_path / "strict").exists()


def test_the_seed_draws_the_controls(vlm, tmp_path):
    """With the same neurons on the same images, measured on all of them, the controls alone are others."""
    (tmp_path / "images").mkdir()
    for sample in tiny_models.samples(2):
        sample.picture.save(tmp_path / "images" / f"{sample.id}.png")
    gate = vlm.sites.select("language", "gate")
    ranking = Ranking.of([Neuron(gate[0], 3), Neuron(gate[1], 4)], gate)
    drawn = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"run-{len(drawn)}"
        options = {**BASE, "data": str(tmp_path / "images"), "split": "same", "criterion": ANY, "controls": 2, "seed": seed}
        result = Study(vlm, out=folder, ranking=ranking, **options).run()
        lines = [json.loads(line) for line in (folder / EVALUATIONS).read_text().splitlines()]
        digests = {line["key"]: line["digest"] for line in lines}
        drawn.append([digests[c.evaluation] for c in result.controls if c.evaluation])
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 6


# -- neurons of one's own --------------------------------------------------------------------------------------------------
def test_a_study_of_a_ranking_of_ones_own(vlm, tmp_path):
    gate = vlm.sites.select("language", "gate")
    ranking = Ranking.of([Neuron(gate[2], 5), Neuron(gate[0], 1), Neuron(gate[1], 9)], gate, "mine")
    study = Study(vlm, out=tmp_path / "run", ranking=ranking, **{**BASE, "max_k": None, "criterion": ANY, "minimal_limit": 9})
    result = study.run()
    assert result.scorer == "mine" and [(n.layer, n.index) for n in result.top] == [(2, 5), (0, 1), (1, 9)]
    assert result.largest_k <= 3 and result.k_star == 1 and result.neurons_total == gate.neurons
    assert [(n.site.layer, n.index) for n in result.critical] == [(2, 5)] and result.minimal_set is not None
    assert study.run() == result
    with pytest.raises(RunError, match=r"holds another study \(neurons is 'ranking:[0-9a-f]+' there"):
        Study(vlm, out=tmp_path / "run", ranking=Ranking.of([Neuron(gate[0], 1)], gate), **{**BASE, "criterion": ANY}).run()
    with pytest.raises(OptionError, match="max_k is 4; the ranking has 3 neurons"):
        Study(vlm, out=tmp_path / "more", ranking=ranking, **{**BASE, "max_k": 4}).run()


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_study_of_a_file_of_neurons(vlm, tmp_path, suffix):
    gate, path = vlm.sites.select("language", "gate"), tmp_path / f"mine.{suffix}"
    order = [Neuron(gate[2], 5), Neuron(gate[0], 1)]

    def write(*neurons: Neuron) -> None:
        if suffix == "csv":
            Ranking.of(neurons, gate).save(path)
        else:
            NeuronSet(neurons, vlm.identity()).save(path)

    write(*order)
    study = Study(vlm, out=tmp_path / "run", neurons=str(path), **BASE)
    result = study.run()
    places = [(n.layer, n.index) for n in result.top]
    assert places == [(2, 5), (0, 1)] if suffix == "csv" else places == [(0, 1), (2, 5)]
    path.rename(tmp_path / "moved")
    assert study.run() == result, "a finished study needs the file no more"
    write(Neuron(gate[1], 7), Neuron(gate[1], 8))
    again = study.run()
    assert {(n.layer, n.index) for n in again.top} == {(1, 7), (1, 8)}, "another file of the same name gets no old answer"
    assert curve(again)[0] == curve(result)[0] and curve(again)[1:] != curve(result)[1:]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [("none.json", None, "cannot be read as a set of neurons"), ("none.csv", None, "cannot be read as a ranking"),
     ("odd.csv", "path,role,index\nnowhere,gate,3\n", "line 2: the model has no gate site at 'nowhere'")],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(vlm, tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(Exception, match=says):
        Study(vlm, out=tmp_path / "run", neurons=str(tmp_path / name), **BASE).run()
    assert not (tmp_path / "run").exists()


# -- criteria --------------------------------------------------------------------------------------------------------------
def test_a_criterion_is_data_in_the_config_and_in_the_result(study, tmp_path):
    for criterion in ("paper", "perplexity", "degeneration", "task", ANY):
        result = study(criterion=criterion, data="questions")
        data = yaml.safe_load((Path(result.run) / CONFIG).read_text())["criterion"]
        assert data == json.loads(json.dumps(result.criterion)) and {"name", "rule", "conditions"} <= set(data)
        read = StudyOptions.from_yaml((Path(result.run) / CONFIG).read_text(), "it")
        assert read.rule() == StudyOptions.parse(criterion=criterion).rule()
        assert {c.name for c in result.criteria} >= {"paper", "perplexity", "degeneration", "task"}


def test_a_criterion_in_a_file(study, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "conditions": [{"metric": "kl", "test": "at-least", "limit": 0.0}]}))
    result = study(criterion=str(path))
    assert result.criterion["name"] == "mine" and result.criterion["conditions"][0]["metric"] == "kl" and result.k_star == 1
    path.unlink()
    assert StudyOptions.from_yaml((Path(result.run) / CONFIG).read_text(), "it").rule().name == "mine"
    assert "--criterion mine.yaml" in result.command


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read: No such file"),
        ("name: [", "cannot be read"),
        ("name: x", "not a criterion: conditions"),
        ("name: x\nconditions: []", "not a criterion: conditions"),
        ("name: x\nrule: most\nconditions: [{metric: kl, test: at-least, limit: 1}]", "not a criterion: rule is 'most'"),
        ("name: x\nconditions: [{metric: speed, test: at-least, limit: 1}]", "needs the metric 'speed'"),
        ("name: x\nspeed: 3\nconditions: [{metric: kl, test: at-least, limit: 1}]", "unknown option 'speed'"),
    ],
)
def test_a_file_that_is_no_criterion_is_named(tmp_path, text, says):
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(OptionError, match=says):
        StudyOptions.parse(criterion=str(tmp_path / "c.yaml"))


def silence(intact: Evaluation, masked: Evaluation) -> bool:
    """Whatever is masked counts."""
    return masked.k > 1


def test_a_function_is_a_criterion_of_a_study(study):
    result = study(criterion=silence)
    assert result.k_star == 2 and result.criterion == {
        "name": "silence", "about": "Whatever is masked counts.", "function": f"{__name__}.silence",
    }  # fmt: skip
    assert "silence" in {c.name for c in result.criteria}
    assert StudyOptions.from_yaml((Path(result.run) / CONFIG).read_text(), "it").criterion == "silence"
    CRITERIA.pop("silence")
    with pytest.raises(RunError, match="criterion 'silence' is unknown"):
        StudyOptions.from_yaml((Path(result.run) / CONFIG).read_text(), "it")


def test_a_registered_function_is_a_criterion_of_a_study(study):
    register_criterion("from-two")(silence)
    assert study(criterion="from-two").k_star == 2


def test_a_function_does_not_replace_a_criterion_of_lesions_own():
    def task(intact: Evaluation, masked: Evaluation) -> bool:
        return True

    task.__qualname__ = "task"
    before = CRITERIA["task"]
    with pytest.raises(OptionError, match="'task' is one of lesion's own"):
        StudyOptions.parse(criterion=task)
    assert CRITERIA["task"] is before


# -- as a command ----------------------------------------------------------------------------------------------------------
def test_the_command_asks_the_same():
    options = StudyOptions.parse(role="down", strict=True, prompt="what is it ?", mask="scale:0.5", layers="0,2", max_k=9)
    assert options.command() == (
        "lesion study tiny-llava --prompt 'what is it ?' --role down --layers 0,2 --mask scale:0.5 --max-k 9 --strict"
    )
    assert StudyOptions.parse().command() == "lesion study tiny-llava"


def test_what_only_takes_time_is_no_part_of_the_question():
    plain = StudyOptions.parse()
    assert StudyOptions.parse(batch_size=3, device="cpu", device_map="auto", threads=1).question() == plain.question()
    assert StudyOptions.parse(dtype="bfloat16").question() != plain.question() != StudyOptions.parse(criterion=ANY).question()
