"""The world of the embedded models: small scenes of one to three objects, drawn from a seed.

A :class:`Scene` is data. :mod:`lesion.zoo.drawing` makes its picture, :mod:`lesion.zoo.captions` its sentences.
Training seeds and held-out seeds come from ranges that never meet (:data:`TRAIN_SEEDS`, :data:`HELD_OUT_SEEDS`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SIDE = 72
"""Width and height of a picture, in pixels."""

CATEGORIES = ("car", "dog", "cat", "bird", "fish", "boat", "house", "tree")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SIZES = {"small": 18, "big": 30}
"""Width of an object of each size, in pixels."""
BACKGROUNDS = ("grass", "snow", "sand", "water", "night", "bricks")

TRAIN_SEEDS = range(10_000_000)
HELD_OUT_SEEDS = range(10_000_000, 20_000_000)

LAYOUTS = ("one", "row", "column", "triangle")
_CELL = SIDE // 2


@dataclass(frozen=True)
class Thing:
    """One object of a scene. ``x`` and ``y`` are its centre in pixels from the top left."""

    category: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, in pixels."""
        half = SIZES[self.size] // 2
        return self.x - half, self.y - half, self.x + half, self.y + half

    @property
    def side(self) -> str | None:
        """``"left"`` or ``"right"``; None where the object stands too near the middle to say."""
        if abs(self.x - SIDE / 2) < SIDE / 9:
            return None
        return "left" if self.x < SIDE / 2 else "right"


@dataclass(frozen=True)
class Scene:
    """A background and its things, in the order in which a caption names them.

    The order is fixed so that "the first object" has one answer: the left one of a row, the upper one of a column, and
    in a triangle the row (left, right) before the one under it.
    """

    seed: int
    background: str
    layout: str
    things: tuple[Thing, ...]

    @property
    def main(self) -> Thing:
        """The thing that a caption names first."""
        return self.things[0]

    @classmethod
    def from_seed(cls, seed: int, category: str | None = None) -> Scene:
        """The scene of a seed; the same on every machine.

        Args:
            seed: Any whole number; see :data:`TRAIN_SEEDS` and :data:`HELD_OUT_SEEDS`.
            category: Forces the first thing's category, for data sets sorted by category.
        """
        rng = random.Random(seed)
        layout = rng.choices(LAYOUTS, weights=(3, 4, 2, 2))[0]
        categories = rng.sample(CATEGORIES, 3)
        if category is not None:
            categories = [category] + [c for c in categories if c != category]
        colours = rng.sample(COLOURS, 3)
        centres = _centres(layout, rng)
        things = []
        for (x, y), kind, colour in zip(centres, categories, colours, strict=False):
            size = rng.choice(tuple(SIZES))
            # An object moves inside its own cell only, so that "left of" and "above" are never in doubt.
            slack = (_CELL - SIZES[size]) // 2
            things.append(Thing(kind, colour, size, x + rng.randint(-slack, slack), y + rng.randint(-slack, slack)))
        return cls(seed, rng.choice(BACKGROUNDS), layout, tuple(things))


def _centres(layout: str, rng: random.Random) -> list[tuple[int, int]]:
    near, middle, far = _CELL // 2, SIDE // 2, SIDE - _CELL // 2
    if layout == "one":
        return [(rng.choice((near, middle, far)), rng.choice((near, middle, far)))]
    if layout == "row":
        y = rng.choice((near, middle, far))
        return [(near, y), (far, y)]
    if layout == "column":
        x = rng.choice((near, middle, far))
        return [(x, near), (x, far)]
    return [(near, near), (far, near), (middle, far)]


def held_out(count: int, seed: int = 0, category: str | None = None) -> list[Scene]:
    """``count`` scenes that no embedded model was trained on.

    Args:
        count: How many.
        seed: Another seed gives another, disjoint set (up to 10,000 scenes each).
        category: Forces the first thing's category.

    Raises:
        ValueError: The seed or count leaves the held-out range.
    """
    start = HELD_OUT_SEEDS.start + 10_000 * seed
    if count > 10_000 or start not in HELD_OUT_SEEDS or start + count - 1 not in HELD_OUT_SEEDS:
        raise ValueError(f"at most 10000 scenes and seeds 0 to 999; found count {count}, seed {seed}")
    return [Scene.from_seed(start + i, category) for i in range(count)]
