"""``--search measured`` in a study: what it finds where the truth is known, what is proved of it, and that it says no more."""

from __future__ import annotations

import io
import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lesion import Result, Study
from lesion.cli.show_study import show_result
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.measured_search import ASKED, level_of, spread
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.published import known
from lesion.study.searched import CandidateEntry, Searched, SubsetEntry
from tests import tiny_models
from tests.families.__main__ import vlm_of

OPTIONS: dict[str, Any] = {
    "data": "questions", "role": "hidden", "samples": 8, "controls": 2, "max_new_tokens": 2, "clip": "none",
    "search": "measured", "search_budget": 160, "shortlist": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")


@pytest.fixture(scope="module")
def result(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return Study(vlm, out=tmp_path_factory.mktemp("search") / "run", **OPTIONS).run()


def searched(result: Result) -> Searched:
    assert result.searched is not None
    return result.searched


def test_the_four_that_were_planted_are_found_and_proved_subset_minimal(vlm, result):
    found = searched(result)
    assert found.neurons is not None and found.level == "subset-minimal"
    assert NeuronSet(n.neuron() for n in found.neurons) == known("tiny-llava").neurons(vlm.sites, "hidden")
    kept = NeuronSet.load(Path(result.run) / rundir.FOUND)
    assert kept.fit(vlm.sites, vlm.identity()) == known("tiny-llava").neurons(vlm.sites, "hidden")
    parts = [c for size in (1, 2, 3) for c in combinations(range(4), size)]
    assert [tuple(part.members) for part in found.subsets] == parts and len(parts) == 14
    assert all(part.collapsed is False for part in found.subsets)


def test_the_budget_is_kept_and_the_way_told(result):
    found = searched(result)
    assert found.spent <= found.budget == 160 and found.shortlist == 40 and found.passes > 0
    assert [s.spent for s in found.steps] == sorted(s.spent for s in found.steps)
    assert len(found.singles) == 20 and not any(single.collapsed for single in found.singles)
    rises = [single.rise or 0.0 for single in found.singles]
    assert rises == sorted(rises, reverse=True)


def test_controls_that_write_the_same_channels_are_among_those_drawn(result):
    drawn = [c for c in searched(result).controls if c.kind == "channel"]
    assert len(drawn) == 2 and all(c.collapsed is False and c.k == 4 for c in drawn)


def test_the_answer_says_both(result):
    assert "4 neurons are enough, where the ranking takes its first 4; no part of them is" in result.verdict
    text = io.StringIO()
    show_result(result, Console(file=text, width=200))
    assert "found by measuring (subset-minimal)" in text.getvalue()
    assert "Sets that write the same channels 2 of 2" in text.getvalue()


def test_what_was_measured_is_not_measured_again(vlm, result, tmp_path):
    """A search that was killed asks the same questions again, and finds them answered."""
    run = Path(shutil.copytree(result.run, tmp_path / "run"))
    before = (run / rundir.EVALUATIONS).read_bytes()
    (run / rundir.SEARCH).unlink()
    again = Study(vlm, out=run, **OPTIONS).run()
    assert searched(again) == searched(result) and (run / rundir.EVALUATIONS).read_bytes() == before


def test_it_seeks_on_one_half_and_judges_on_the_other(result):
    """Sets are read on the samples that are ranked on; answers are written only on the others."""
    halves = {s.id: s.measured_on for s in result.sample_list}
    lines = [json.loads(line) for line in (Path(result.run) / rundir.EVALUATIONS).read_text().splitlines()]
    judged = [line for line in lines if line["kind"] == "mask" and line["neurons"] > 0]
    assert judged and all(halves[sample["id"]] for line in judged for sample in line["samples"])


def test_a_random_model_has_no_such_set(tmp_path):
    options: dict[str, Any] = OPTIONS | {"search_budget": 60, "shortlist": 20, "controls": 0, "max_k": 8}
    result = Study(tiny_models.llava(), out=tmp_path / "run", **options).run()
    found = searched(result)
    assert found.neurons is None and found.level is None and found.candidates == [] and found.subsets == []
    assert "found nothing that collapses" in result.verdict


@pytest.mark.parametrize("family", ["blip_2_t5", "gpt2", "qwen3_vl_moe"])
def test_an_encoder_decoder_other_layers_and_experts_are_searched_too(family, tmp_path):
    """Of every family that was tried by hand, these run in three other ways than LLaVA."""
    model = vlm_of(family)
    options: dict[str, Any] = OPTIONS | {
        "data": "prompts" if model.structure.vision is None else "scenes", "role": "all", "samples": 4, "controls": 1,
        "max_k": 2, "search_budget": 30, "shortlist": 8, "minimal_limit": 0, "criterion": "perplexity",
    }  # fmt: skip
    found = searched(Study(model, out=tmp_path / "run", **options).run())
    assert 8 <= found.spent <= 30 and len(found.singles) == 8


def test_a_study_that_does_not_ask_has_none(vlm, tmp_path):
    result = Study(vlm, out=tmp_path / "run", **(OPTIONS | {"search": "prefix", "controls": 0})).run()
    assert result.searched is None and "measuring" not in result.verdict


SITE = Site("a.down_proj", "language", "hidden", 0, 1000)


def of_size(count: int) -> NeuronSet:
    return NeuronSet.from_arrays({SITE: range(count)})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("sizes", "asked"),
    [([], []), ([3], [3]), ([2, 3, 4, 5, 6], [2, 3, 4, 5]), ([100, 101, 109, 110, 121, 500], [100, 110, 121, 500])],
)
def test_few_are_asked_about_on_the_other_samples(sizes, asked):
    assert [len(s) for s in spread([of_size(n) for n in sizes])] == asked and len(asked) <= ASKED


def part(*members: int, collapsed: bool | None = False) -> SubsetEntry:
    return SubsetEntry(members=list(members), collapsed=collapsed)


@pytest.mark.parametrize(
    ("count", "subsets", "level"),
    [
        (1, [], "subset-minimal"),
        (2, [part(0), part(1)], "subset-minimal"),
        (2, [part(0), part(1, collapsed=True)], "collapses"),
        (2, [part(0), part(1, collapsed=None)], "collapses"),
        (3, [part(0, 1), part(0, 2), part(1, 2)], "1-minimal"),
        (3, [part(0, collapsed=True), part(1), part(2), part(0, 1), part(0, 2), part(1, 2)], "1-minimal"),
        (70, [], "collapses"),
    ],
)
def test_a_level_is_no_more_than_was_measured(count, subsets, level):
    assert level_of(count, subsets) == level


def told(**changed: Any) -> Searched:
    base: dict[str, Any] = {
        "budget": 500, "spent": 500, "passes": 0, "ended": False, "shortlist": 128, "samples": 4, "steps": [], "singles": [],
        "candidates": [], "neurons": None, "level": None, "subsets": [], "controls": [],
    }  # fmt: skip
    return Searched(**base | changed)


ENTRIES = [NeuronEntry.of(n) for n in of_size(3)]
CANDIDATE = CandidateEntry(neurons=ENTRIES, collapsed=False, evaluation="")


@pytest.mark.parametrize(
    ("changed", "prefix", "words"),
    [
        ({}, 4, "Measuring sets of a shortlist of 128 found nothing that collapses m; the budget of 500 sets was spent."),
        ({"candidates": [CANDIDATE], "ended": True, "spent": 9}, None,
         "Measuring sets of a shortlist of 128 found nothing that holds on other samples and collapses m; 9 sets were "
         "measured."),
        ({"neurons": ENTRIES, "level": "collapses"}, 51,
         "By measuring sets, 3 neurons are enough, where the ranking takes its first 51; the budget of 500 sets was spent."),
        ({"neurons": ENTRIES[:1], "level": "subset-minimal"}, None,
         "By measuring sets, 1 neuron is enough; the budget of 500 sets was spent."),
        ({"neurons": ENTRIES, "level": "1-minimal"}, 2,
         "Measuring sets found none smaller than the ranking's 2; the budget of 500 sets was spent."),
    ],
)  # fmt: skip
def test_the_sentence(changed, prefix, words):
    assert told(**changed).sentence("m", prefix) == words
