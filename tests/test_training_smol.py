"""What the training of smol-llava rests on: its words, its patches' words, its noise, and what it must not touch."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lesion.zoo.captions import questions
from lesion.zoo.scenes import CATEGORIES, COLOURS, held_out
from training import smol_llava
from training.quality import is_right


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("a big red car is above a dog , in the snow .", "A big red car is above a dog, in the snow."),
        ("is there a dog ?", "Is there a dog?"), ("there are two things : a and b .", "There are two things: a and b."),
    ],
)  # fmt: skip
def test_sentences_are_written_as_people_write_them(said, written):
    assert smol_llava.natural(said) == written


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("yes", "yes", True), ("Yes, there is a big red dog.", "yes", True), ("No, there is no dog.", "no", True),
        ("No.", "yes", False), ("There is a dog. Yes.", "yes", False), ("", "no", False), ("red", "red", True),
        ("The dog is red.", "red", True), ("The dog is red and blue.", "red", False), ("It is on the left.", "right", False),
    ],
)  # fmt: skip
def test_an_answer_is_right_by_its_first_word_or_its_only_colour(text, truth, right):
    assert is_right(text, truth) is right


def test_every_answer_in_a_sentence_is_right():
    speaker: Any = object.__new__(smol_llava.Speaker)
    speaker.part, speaker.stream = smol_llava.SPEAKING[-1], SimpleNamespace(rng=random.Random(0))
    for scene in held_out(20):
        for question, truth in questions(scene):
            asked, told = speaker._own_words(scene, question, truth)
            assert is_right(told, truth) and asked.lower().replace(" ", "") == question.replace(" ", "")


def test_a_patch_is_given_the_words_for_what_is_there():
    """A table in which a word's row is its own one-hot, so that a mean says which words it is of."""
    words: dict[str, int] = {}

    def tokenizer(text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=[words.setdefault(text.strip(), len(words))])

    names = smol_llava.Names(torch.eye(64), tokenizer)
    scene = next(s for s in held_out(50) if len(s.things) == 1)
    seen = names([scene])[0]
    thing = scene.main
    expected = {words[thing.category], words[thing.colour], words[thing.size]}
    grounds, objects = [], []
    for patch in seen:
        present = set(patch.nonzero().flatten().tolist())
        assert float(patch.sum()) == pytest.approx(1)
        (objects if len(present) == 3 else grounds).append(present)
    assert objects and all(p == expected for p in objects)
    assert grounds and len({tuple(p) for p in grounds}) == 1 and len(grounds[0]) == 1
    assert {words[c] for c in (*CATEGORIES, *COLOURS)} <= set(words.values())


def test_noise_is_noise_and_every_time_another():
    rng = random.Random(1)
    pictures = [np.asarray(smol_llava.noise(rng), dtype=float) for _ in range(8)]
    assert all(p.shape == (72, 72, 3) for p in pictures)
    assert len({p.tobytes() for p in pictures}) == 8 and all(p.std() > 15 for p in pictures)


def test_a_captions_first_object_and_colour_are_found():
    words = {" big": 5, " red": 1, " dog": 2, " blue": 3, " cat": 4}
    speaker: Any = object.__new__(smol_llava.Speaker)
    speaker.tokenizer = lambda word, add_special_tokens: SimpleNamespace(input_ids=[words.get(word, 99)])
    labels = torch.tensor([[-1, 5, 1, 2, 3, 4, 2], [-1, -1, 2, 1, 1, 4, -1]])  # "big red dog blue cat dog"; "dog red red cat"
    assert speaker._first_named(labels).nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
