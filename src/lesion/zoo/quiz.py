"""Questions about held-out scenes whose answer is one word: whether something is there, its colour, its side."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lesion.zoo.captions import questions
from lesion.zoo.scenes import HELD_OUT_SEEDS, Scene

KINDS = ("object", "colour", "side")
"""Whether something is there (yes or no, as POPE asks; arXiv 2305.10355), what colour it has, on which side it is."""
_OPENINGS = {"object": "is there", "colour": "what colour", "side": "which side"}


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Attributes:
        scene: What is shown.
        kind: One of :data:`KINDS`.
        question: As the embedded models were asked in training, about other scenes.
        answer: One word.
    """

    scene: Scene
    kind: str
    question: str
    answer: str


def held_out(count: int, seed: int = 0, kind: str | None = None) -> list[Question]:
    """Questions about scenes that no embedded model was trained on, a scene each, the kinds by turns.

    Half of the questions about objects are answered yes, and half of those about sides left; a scene that does not settle the
    question is passed over. Colours come as they are drawn.

    Args:
        count: How many.
        seed: Another seed gives other scenes, none of them in both.
        kind: Only questions of this kind.

    Raises:
        ValueError: No such kind, or the seed or count leaves the held-out scenes.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"it has no category {kind!r}; expected one of {', '.join(KINDS)}")
    start = HELD_OUT_SEEDS.start + 10_000 * seed
    scenes = range(start, start + 10_000)
    if count > 5_000 or seed < 0 or scenes[-1] not in HELD_OUT_SEEDS:
        raise ValueError(f"at most 5000 questions and seeds 0 to 999; found count {count}, seed {seed}")
    kinds = KINDS if kind is None else (kind,)
    turns = dict.fromkeys(kinds, 0)
    chosen: list[Question] = []
    for number in scenes:
        if len(chosen) == count:
            break
        wanted = kinds[len(chosen) % len(kinds)]
        found = _ask(Scene.from_seed(number), wanted, turns[wanted])
        if found is not None:
            turns[wanted] += 1
            chosen.append(found)
    return chosen


def _ask(scene: Scene, kind: str, turn: int) -> Question | None:
    """A question of a kind; of those with two answers, the turn says which is wanted. None where the scene has none."""
    answer = {"object": ("yes", "no"), "side": ("left", "right")}.get(kind, (None,))
    wanted = answer[turn % len(answer)]
    fitting = [
        (asked, said) for asked, said in questions(scene)
        if asked.startswith(_OPENINGS[kind]) and wanted in (None, said)
    ]  # fmt: skip
    if not fitting:
        return None
    return Question(scene, kind, *random.Random(scene.seed).choice(fitting))
