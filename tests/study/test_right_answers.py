"""Right answers against k: counted by hand on answers that are made up, and the embedded model's own on the quiz."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lesion import Study, write_report
from lesion.cli.app import app
from lesion.core.errors import DataError
from lesion.core.modes import expected_word, first_word
from lesion.data.samples import digest, load_categories, load_samples
from lesion.study.result import Result
from lesion.study.right_answers import FEWEST, GUESS, right_answers, right_rows
from lesion.zoo import quiz, scenes


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A study of 48 questions: 24 measured, eight of a kind."""
    options: dict[str, Any] = {"data": "quiz", "samples": 48, "controls": 0, "max_new_tokens": 2, "clip": "none"}
    return Study("tiny-llava", out=tmp_path_factory.mktemp("quiz") / "run", **options).run()


# -- the words -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("Yes, there is one.", "yes"), ("no", "no"), (" Red. ", "red"), ("left", "left"), ("a red car", None), ("", None),
        (None, None), ("...", None),
    ],
)  # fmt: skip
def test_what_a_right_answer_begins_with(reference: str | None, word: str | None):
    assert expected_word(reference) == word


def test_the_first_word_of_an_answer():
    assert [first_word(t) for t in ("Red, I think", "red", "  LEFT.", "", None, "?! no")] == ["red", "red", "left", "", "", ""]


# -- the questions ---------------------------------------------------------------------------------------------------
def test_kinds_come_by_turns_and_answers_are_balanced():
    asked = load_samples("quiz", 240)
    assert [s.category for s in asked] == list(quiz.KINDS) * 80
    said = {kind: Counter(s.reference for s in asked if s.category == kind) for kind in quiz.KINDS}
    assert said["object"] == {"yes": 40, "no": 40} and said["side"] == {"left": 40, "right": 40}
    assert set(said["colour"]) == set(scenes.COLOURS)
    assert len({s.id for s in asked}) == 240 and all(expected_word(s.reference) == s.reference for s in asked)


def test_each_answer_is_what_the_scene_says():
    for q in quiz.held_out(60, seed=3):
        assert q.scene.seed in scenes.HELD_OUT_SEEDS
        asked = next((t for t in q.scene.things if f" {t.category} " in q.question), None)
        truth = {
            "object": "no" if asked is None else "yes", "colour": asked and asked.colour, "side": asked and asked.side,
        }  # fmt: skip
        assert q.answer == truth[q.kind], q


def test_seeds_give_other_scenes_and_categories_one_kind():
    first, second = (load_samples("quiz", 30, seed=seed) for seed in (0, 1))
    assert not {s.id for s in first} & {s.id for s in second} and digest(first) == digest(load_samples("quiz", 30))
    assert {s.category for s in load_samples("quiz", 9, category="side")} == {"side"}
    assert {k: {s.category for s in v} for k, v in load_categories("quiz", 3).items()} == {k: {k} for k in quiz.KINDS}


@pytest.mark.parametrize(
    ("count", "seed", "category", "line"),
    [
        (5_001, 0, None, "at most 5000 questions"), (1, 1000, None, "seeds 0 to 999"),
        (1, 0, "dog", "no category 'dog'; expected"),
    ],
)
def test_what_the_quiz_does_not_have(count: int, seed: int, category: str | None, line: str):
    with pytest.raises(DataError, match=f"embedded quiz: .*{line}"):
        load_samples("quiz", count, seed, category=category)


# -- the shares ------------------------------------------------------------------------------------------------------
def test_shares_are_the_answers_own(result: Result):
    kinds = right_answers(result)
    assert [(k.kind, k.samples) for k in kinds] == [("colour", FEWEST), ("object", FEWEST), ("side", FEWEST)]
    about = {s.id: s for s in result.sample_list}
    for k in kinds:
        for point in result.curve:
            mine = [o for o in point.outcomes if about[o["id"]].category == k.kind]
            right = sum(o["answer"].split(" ")[0] == about[o["id"]].reference for o in mine)
            assert k.by_k[point.k] == right / FEWEST
    shares = {k.kind: k for k in kinds}
    assert shares["object"].guess == shares["side"].guess == 0.5
    assert shares["object"].by_k[0] > 0.8 and shares["object"].by_k[result.k_star or 0] < 0.3
    assert result.complaints == [] and result.baseline["accuracy"] is None, "that is for yes and no"


def test_answers_that_are_made_up(result: Result):
    """Four right of eight at k = 0, one at the next; a guess of three, as the most frequent answer is the truth three times."""
    words = ["red", "red", "red", "blue", "blue", "pink", "white", "green"]
    ids = [s.id for s in result.sample_list if s.measured_on][:8]
    samples = [
        s.model_copy(update={"reference": words[ids.index(s.id)], "category": None}) for s in result.sample_list if s.id in ids
    ]
    answers = {0: ["Red.", "red", "redder", "blue car", "pink", "pink", "", "no"], 1: ["red", *["pink"] * 4, "red", "", ""]}
    curve = [
        p.model_copy(update={"k": k, "outcomes": [{"id": i, "answer": a} for i, a in zip(ids, answers[k], strict=True)]})
        for k, p in enumerate(result.curve[:2])
    ]
    made = result.model_copy(update={"sample_list": samples, "curve": curve})
    (every,) = right_answers(made)
    assert (every.kind, every.samples, every.guess, every.by_k) == ("all", 8, 3 / 8, {0: 4 / 8, 1: 1 / 8})
    assert right_rows(made) == [
        {"k": "0", "all (8)": "50 %"}, {"k": "1", "all (8)": "12 %"}, {"k": GUESS, "all (8)": "38 %"}
    ]  # fmt: skip
    captions = [s.model_copy(update={"reference": "a red car"}) for s in samples[:1]]
    assert right_rows(made.model_copy(update={"sample_list": [*captions, *samples[1:]]})) == []
    few = [s.model_copy(update={"category": "one" if i else "other"}) for i, s in enumerate(samples)]
    assert [k.kind for k in right_answers(made.model_copy(update={"sample_list": few}))] == ["all"]


# -- where they are shown --------------------------------------------------------------------------------------------
def test_the_terminal_and_the_report_show_them(result: Result, tmp_path: Path):
    rows = right_rows(result)
    done = CliRunner().invoke(app, ["show", result.run], env={"COLUMNS": "120"})
    assert done.exit_code == 0 and "right answers" in done.stdout and GUESS in done.stdout
    for name in rows[0]:
        assert name in done.stdout
    write_report(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Right answers by kind of question" in page and GUESS in page and "colour (8)" in page
