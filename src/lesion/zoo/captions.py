"""Sentences about a scene: captions of several forms and lengths, and questions with their answers."""

from __future__ import annotations

import random
import re

from lesion.zoo.scenes import CATEGORIES, COLOURS, SIZES, Scene, Thing

DEFAULT_PROMPT = "Describe this image in detail."
PROMPTS = (
    DEFAULT_PROMPT,
    "What is in the picture?",
    "Write a caption for this picture.",
    "What do you see?",
)
"""Prompts that ask for a caption. The embedded models were trained on all of them, mostly on the first."""

PLACES = {
    "grass": ("on the grass", "in a green field"),
    "snow": ("in the snow", "on a snowy day"),
    "sand": ("on the sand", "at the sunny beach"),
    "water": ("on the water", "at the calm sea"),
    "night": ("at night", "under the stars"),
    "bricks": ("by a brick wall", "against an old wall"),
}


def noun_phrase(thing: Thing) -> str:
    """``"a big red car"``; every caption gives every object with its size and colour."""
    return f"a {thing.size} {thing.colour} {thing.category}"


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """One caption, 8 to 25 words, in lower case; the things in the scene's order.

    Args:
        scene: What to describe.
        rng: Chooses among the sentence forms. Default: one seeded by the scene, so that a scene has one reference text.
    """
    rng = rng or random.Random(scene.seed)
    place = rng.choice(PLACES[scene.background])
    names = [noun_phrase(t) for t in scene.things]
    forms = {"one": _one, "row": _row, "column": _column, "triangle": _triangle}
    return rng.choice(forms[scene.layout](scene, names, place))


def _one(scene: Scene, names: list[str], place: str) -> list[str]:
    where = {"left": "on the left", "right": "on the right", None: "in the middle"}[scene.main.side]
    return [
        f"{names[0]} is {where} of the picture , {place} .",
        f"the picture shows {names[0]} {where} , {place} .",
        f"{place} , there is {names[0]} {where} and nothing else .",
        f"there is only {names[0]} , {where} , {place} .",
    ]


def _row(scene: Scene, names: list[str], place: str) -> list[str]:
    return [
        f"{names[0]} is to the left of {names[1]} , {place} .",
        f"the picture shows {names[0]} and , to its right , {names[1]} {place} .",
        f"{place} , there is {names[0]} next to {names[1]} on the right .",
        f"there is {names[0]} on the left and {names[1]} on the right , {place} .",
    ]


def _column(scene: Scene, names: list[str], place: str) -> list[str]:
    return [
        f"{names[0]} is above {names[1]} , {place} .",
        f"the picture shows {names[0]} and , under it , {names[1]} {place} .",
        f"{place} , there is {names[0]} and {names[1]} is below it .",
        f"there is {names[0]} at the top and {names[1]} at the bottom , {place} .",
    ]


def _triangle(scene: Scene, names: list[str], place: str) -> list[str]:
    return [
        f"{names[0]} is to the left of {names[1]} , and {names[2]} is below them , {place} .",
        f"{place} , there is {names[0]} , then {names[1]} , and {names[2]} under them .",
        f"the picture shows {names[0]} next to {names[1]} and {names[2]} below , {place} .",
        f"there are three things {place} : {names[0]} , {names[1]} and {names[2]} at the bottom .",
    ]


def questions(scene: Scene) -> list[tuple[str, str]]:
    """Every question that the scene settles, with its answer; as many "yes" as "no" among the yes/no ones."""
    present = [t.category for t in scene.things]
    absent = [c for c in CATEGORIES if c not in present]
    rng = random.Random(scene.seed)
    asked = [(f"is there a {c} ?", "yes") for c in present]
    asked += [(f"is there a {c} ?", "no") for c in rng.sample(absent, len(present))]
    asked += [(f"what colour is the {t.category} ?", t.colour) for t in scene.things]
    asked += [(f"which side is the {t.category} on ?", t.side) for t in scene.things if t.side]
    return asked


_NOUN_PHRASE = re.compile(rf"\b(?:{'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(CATEGORIES)})\b")


def first_named(text: str) -> tuple[str, str] | None:
    """Colour and category of the first full noun phrase in a caption; None where there is none."""
    found = _NOUN_PHRASE.search(text)
    return (found[1], found[2]) if found else None


def vocabulary() -> list[str]:
    """Every word that a caption, a question, an answer or a prompt can hold, sorted."""
    texts = [*PROMPTS, "yes no left right user : assistant :"]
    rng = random.Random(0)
    for seed in range(4000):
        scene = Scene.from_seed(seed)
        texts.append(caption(scene, rng))
        texts += [part for pair in questions(scene) for part in pair]
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
