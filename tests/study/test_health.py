"""Whether the intact model works on the data at all, and whether the data repeats itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.outcome import Likelihood, SampleOutcome
from lesion.data.samples import Sample, load_samples
from lesion.study.health import complaints, near_copies

COUNT = 8


def outcome(i: int, answer: str, nll: float | None, clip: float | None, repeated: float, strange: float, correct: bool | None):
    value = Likelihood(nll, 10)
    return SampleOutcome(f"s{i}", answer, value, value, value, clip, 0.0, 1.0, True, repeated, strange, "intact", correct)


def wrong(
    answers: list[str] | None = None,
    nll: float | None = 0.2,
    clips: Sequence[float | None] | None = None,
    repeated: float = 0.0,
    strange: float = 0.0,
    right: list[bool] | None = None,
    chance: float | None = 20.0,
    count: int = COUNT,
    prompts: list[str] | None = None,
    references: list[str] | None = None,
) -> list[str]:
    """Complaints about a model that works, but for what is said."""
    answers = answers or [f"a car and {i} trees" for i in range(count)]
    clips = clips or [80.0 + i for i in range(count)]
    outcomes = tuple(
        outcome(i, answers[i], nll, clips[i], repeated, strange, None if right is None else right[i]) for i in range(count)
    )
    samples = [
        Sample(f"s{i}", None, None, None if references is None else references[i], None if prompts is None else prompts[i])
        for i in range(count)
    ]
    return complaints(Curve([Evaluation(0, outcomes)], None if chance is None else [chance] * count), samples)


def test_right_answers_of_one_word_need_fit_no_picture():
    """What they say is judged by the data's word; where they are no better than a constant answer, the CLIP score speaks."""
    prompts = [f"what is {i} ?" for i in range(COUNT)]
    at_chance: dict[str, Any] = {"clips": [20.0 + i % 2 for i in range(COUNT)], "chance": 20.5, "prompts": prompts}
    words = ["red", "blue", "pink", "white"] * 2
    assert wrong(words, references=words, **at_chance) == []
    (line,) = wrong(["red"] * COUNT, references=words, **at_chance)
    assert "fit their own images no better" in line
    (line,) = wrong(words, references=["a red car"] * COUNT, **at_chance)
    assert "fit their own images no better" in line


def test_a_model_that_works_is_not_complained_of():
    assert wrong() == [] == wrong(chance=None, clips=[None] * COUNT)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"nll": 3.2}, r"unsure of its own answers \(perplexity 24.5\)"),
        ({"nll": None}, r"unsure of its own answers \(perplexity not finite\)"),
        ({"answers": ["  "] * 5 + ["a car"] * 3}, "5 of 8 intact answers are empty, repetition or no text"),
        ({"repeated": 0.3}, "8 of 8 intact answers are empty, repetition or no text"),
        ({"strange": 0.3}, "8 of 8 intact answers are empty, repetition or no text"),
        ({"answers": ["three things in the snow"] * 8}, "the same answer to all 8 samples"),
        ({"clips": [0.3, 0.5] * 4, "chance": 0.4}, r"no better than other images \(CLIP score 0.4, chance 0.4\)"),
        ({"clips": [0.0] * COUNT, "chance": 0.4}, r"no better than other images \(CLIP score 0.0, chance 0.4\)"),
        ({"right": [True, False] * 4}, r"no better than a coin \(50 % right\)"),
    ],
)  # fmt: skip
def test_each_complaint(what, says):
    (complaint,) = [line for line in wrong(**what) if "CLIP" in line or "clips" not in what]
    assert re.search(says, complaint)


def test_the_same_answer_to_different_questions_or_of_few_samples_is_none():
    assert wrong(answers=["yes"] * COUNT, prompts=[f"is there a {i}?" for i in range(COUNT)]) == []
    assert wrong(answers=["a car"] * 3, count=3) == []
    assert wrong(clips=[20.0] * 3, count=3) == []


def test_yes_and_no_are_held_against_a_coin_and_not_against_pictures():
    """``yes`` describes no picture; who answers well works, whatever CLIP says of the word."""
    assert wrong(right=[True] * COUNT, clips=[20.0] * COUNT) == []


# -- near copies -----------------------------------------------------------------------------------------------------------
def test_near_copies_are_counted():
    samples = load_samples("scenes", 3)
    brighter = np.asarray(samples[0].picture).astype(int) + 3
    copies = [
        Sample("same", samples[0].image), Sample("brighter", Image.fromarray(brighter.clip(0, 255).astype(np.uint8))),
        Sample("larger", samples[1].picture.resize((3 * samples[1].picture.width, 3 * samples[1].picture.height))),
    ]  # fmt: skip
    assert near_copies(samples) == 0
    assert near_copies([*samples, *copies]) == 3
    asked = [Sample(f"q{i}", samples[0].image, prompt=f"is there a {i}?") for i in range(3)]
    assert near_copies(asked) == 0, "another question makes another sample"
    assert near_copies([Sample("text", None, prompt="a"), Sample("text 2", None, prompt="a")]) == 0


def test_the_embedded_scenes_are_no_copies_of_each_other():
    assert near_copies(load_samples("scenes", 32)) == 0
