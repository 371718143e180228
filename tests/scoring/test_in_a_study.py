"""Scorers in a study: the dear ones score its own sites, the others every site; options reach them; the result is kept."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lesion.core.errors import OptionError
from lesion.scoring.score import score
from lesion.scoring.scorers import SCORERS, register
from lesion.study import importances as stage
from lesion.study.options import StudyOptions
from lesion.study.session import Session
from tests import tiny_models

DEAR = ("integrated-gradients", "output-share", "relp")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A session on random LLaVA with given options, without a search for a CLIP model."""
    samples = tiny_models.samples(4)
    monkeypatch.setattr("lesion.study.session.load_samples", lambda *_, **__: samples)

    number = itertools.count()

    def make(**options: Any):
        asked = StudyOptions.parse(clip="none", samples=4, split="same", max_new_tokens=4, controls=0, **options)
        return Session.open(asked, model=tiny_models.llava(), out=tmp_path / f"run-{next(number)}")

    return make


def scored(session: Session) -> dict[str, Any]:
    options = session.options
    return stage.importances(session, session.ranked, stage.study_scorers(options), options.scoring())


@pytest.mark.parametrize("name", DEAR)
def test_a_dear_scorer_scores_the_studys_own_sites_alone(opened, name):
    with opened(scorer=name, role="down", layers="1-2", ig_steps=2) as session:
        first = scored(session)
        own = {s.key for s in session.sites}
        assert set(first) == {name, "can", "activation", "gradient", "taylor"} and len(own) == 2
        assert set(first[name].sums) == set(first[name].hits) == own
        assert own < set(first["can"].sums) and len(first["can"].sums) > 10
        assert [s.key for s in first[name].sites] == [s.key for s in first["can"].sites]
        again = scored(session)  # read from the file
        for site in first[name].sites:
            assert again[name].values(site).tolist() == first[name].values(site).tolist()
        assert again[name].options == first[name].options


def test_the_options_reach_the_path(opened):
    found = []
    for options in ({}, {"ig_steps": 1}, {"ig_path": "all"}):
        with opened(scorer="integrated-gradients", role="down", **options) as session:
            found.append(scored(session)["integrated-gradients"])
    assert [i.options["ig_steps"] for i in found] == [8, 1, 8]
    assert [i.options["ig_path"] for i in found] == ["layer", "layer", "all"]
    site = found[0].sites.select("language", "down")[0]
    assert len({tuple(i.values(site)) for i in found}) == 3


def test_sites_without_a_residual_stream_are_noted_or_refused(opened):
    with opened(scorer="output-share", component="all", role="down") as session:
        scored(session)
        [note] = [n for n in session.notes if "output-share" in n]
        assert "does not score 1 of" in note and "model.multi_modal_projector.linear_2:down; their neurons score 0" in note
    with (
        pytest.raises(OptionError, match="scores none of the 1 sites"),
        opened(scorer="output-share", component="connector", role="down") as session,
    ):
        scored(session)


@pytest.mark.parametrize(("values", "message"), [
    ({"ig_steps": 0}, "ig_steps is 0; expected at least 1"),
    ({"ig_path": "site"}, "ig_path is 'site'; expected one of layer, all"),
])  # fmt: skip
def test_wrong_options_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        StudyOptions.parse(**values)


def test_which_scorers_are_for_everywhere():
    assert tuple(sorted(name for name, scorer in SCORERS.items() if not scorer.everywhere)) == DEAR


def test_a_path_scorer_of_ones_own():
    """The registry does not know integrated gradients by name: what needs a path is given one."""
    register("largest step", "ig_steps", needs="path")(lambda a, g, t, o: (a * g).amax(1))
    try:
        model = tiny_models.ThreeNeurons()
        found = score(model, model.sites, [tiny_models.Numbers(model, [[2.0]])], "largest step")["largest step"]
        hidden = next(s for s in model.sites if s.role == "hidden")
        assert found.values(hidden).tolist() == pytest.approx([4.0, 4.0, 12.0])
    finally:
        del SCORERS["largest step"]
