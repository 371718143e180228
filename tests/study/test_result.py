"""Results: short in a notebook, sets and frames of what they hold, and words that say no more than was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lesion import Result, Study
from lesion.core.errors import OptionError, RunError
from lesion.core.neurons import NeuronSet
from lesion.core.statistics import share_upper_bound
from lesion.models.loading import load
from lesion.study.control_entry import ControlEntry, by_kind
from lesion.study.rundir import CRITICAL, RESULT


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Of a study with a collapse: yes/no questions, which are quick."""
    out = tmp_path_factory.mktemp("result") / "run"
    options = {"data": "questions", "samples": 8, "controls": 1, "max_new_tokens": 2, "clip": "none"}
    return Study("tiny-llava", out=out, **options).run()


def test_it_prints_in_ten_lines(result: Result):
    text = repr(result)
    assert len(text.splitlines()) <= 10 and len(text) < 2000 and str(result) == text
    for part in (result.verdict, result.command, "k*: 4 of 2,688", "stage 1: begins at k =", result.run, "random 1 of 1"):
        assert part in text, part
    assert "None" not in text and "nan" not in text


def test_it_prints_in_ten_lines_without_a_collapse(result: Result):
    nothing = result.model_copy(update={"k_star": None, "k_star_ci": (None, None), "controls": [], "minimal_set": None})
    text = repr(nothing)
    assert len(text.splitlines()) <= 10 and "None" not in text
    assert "k*: none of 2,688; no k*, hence no interval" in text and "minimal set: not sought" in text


def test_a_notebook_shows_the_verdict_and_every_note_escaped(result: Result):
    html = result.model_copy(update={"notes": ["<script>"]})._repr_html_()
    assert result.verdict in html and "&lt;script&gt;" in html and "<script>" not in html


def test_the_critical_neurons_are_a_set_of_the_model(result: Result):
    critical = result.critical
    assert isinstance(critical, NeuronSet) and len(critical) == 4
    assert critical == NeuronSet.load(Path(result.run) / CRITICAL)
    vlm = load("tiny-llava")
    assert critical.identity == vlm.identity() == result.identity
    assert critical.fit(vlm.sites, vlm.identity()) == critical
    nothing = result.model_copy(update={"k_star": None, "critical_neurons": []})
    assert len(nothing.critical) == 0


def test_more_critical_neurons_than_are_listed_are_read_from_their_file(result: Result):
    short = result.model_copy(update={"critical_neurons": result.critical_neurons[:1]})
    assert short.critical == result.critical


def test_tables_become_frames(result: Result):
    pytest.importorskip("pandas")
    frame, controls = result.to_frame(), result.controls_to_frame()
    assert list(frame["k"]) == [p.k for p in result.curve] and frame["ppl_reference"].notna().all()
    assert set(frame) >= {"k", "collapsed", "ppl_reference", "accuracy"}
    assert list(controls["kind"]) == ["random", "layers", "magnitude"] and set(controls) >= {"seed", "k", "collapsed"}
    assert list(result.read_curve().to_frame()["k"]) == list(frame["k"])


def test_without_pandas_it_says_what_to_install(result: Result, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for frame in (result.to_frame, result.controls_to_frame):
        with pytest.raises(OptionError, match="pip install pandas"):
            frame()


def test_the_collapse_can_be_read_back(result: Result):
    collapse = result.collapse
    assert (collapse.k_star, collapse.stage1_k, collapse.k_star_ci) == (result.k_star, result.stage1_k, result.k_star_ci)
    assert collapse.samples == 4 and collapse.collapsed == tuple(p.k for p in result.curve if p.collapsed)
    assert "interval" in collapse.interval()


def control(kind: str, seed: int, collapsed: bool | None, drawn: bool = True) -> ControlEntry:
    return ControlEntry(kind=kind, seed=seed, k=4, collapsed=collapsed, evaluation="e" if drawn else None)


def test_controls_stand_fall_are_undecided_or_could_not_be_drawn():
    entries = [control("random", 0, False), control("random", 1, True), control("random", 2, None)]
    groups = by_kind([*entries, control("layers", 0, None, drawn=False)])
    random, layers = groups["random"], groups["layers"]
    assert (random.drawn, random.fallen, random.undecided, random.standing, random.missing) == (3, 1, 1, 1, 0)
    assert random.bound == share_upper_bound(2, 3), "what is undecided may be one that falls"
    assert (layers.drawn, layers.missing, layers.bound) == (0, 1, None)


def test_confidence_says_what_is_undecided(result: Result):
    entries = [control("random", 0, False), control("random", 1, None)]
    text = " ".join(result.model_copy(update={"controls": entries}).confidence())
    assert "Random sets of the same size: 0 of 2 collapse the model, 1 are undecided (with 95 % confidence, at most" in text
    none = result.model_copy(update={"k_star": None}).confidence()
    assert none == [f"No k up to {result.largest_k} of 2,688 collapses the model and stays collapsed."]


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(RunError, match=r"result\.json cannot be read .*expected the run directory of a finished study"):
        Result.load(tmp_path)
    (tmp_path / RESULT).write_text('{"model": "x"}')
    with pytest.raises(RunError, match="no result that this version of lesion reads"):
        Result.load(tmp_path)
