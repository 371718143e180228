"""Draws a :class:`~lesion.zoo.scenes.Scene` with Pillow: flat shapes with dark outlines, like a child's picture book."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from lesion.zoo.scenes import SIDE, SIZES, Scene, Thing

Colour = tuple[int, int, int]

PALETTE: dict[str, Colour] = {
    "red": (214, 32, 38),
    "orange": (245, 138, 24),
    "yellow": (250, 222, 40),
    "green": (30, 158, 62),
    "blue": (36, 84, 214),
    "purple": (122, 48, 168),
    "pink": (246, 140, 190),
    "white": (250, 250, 250),
}
OUTLINE: Colour = (28, 24, 32)
GLASS: Colour = (188, 222, 240)
_SCALE = 4  # Drawn four times as large and reduced, since Pillow's shapes have no smooth edges.


class _Pen:
    """Draws in a thing's own coordinates: (0, 0) is its top left corner, (1, 1) its bottom right one."""

    def __init__(self, draw: ImageDraw.ImageDraw, thing: Thing) -> None:
        left, top, _, _ = thing.box
        self._draw, self._left, self._top = draw, left * _SCALE, top * _SCALE
        self._unit = SIZES[thing.size] * _SCALE
        self._line = max(3, self._unit // 22)
        self.fill = PALETTE[thing.colour]
        self.shade: Colour = tuple(int(0.72 * c) for c in self.fill)  # pyright: ignore[reportAttributeAccessIssue]

    def _at(self, *numbers: float) -> list[float]:
        return [(self._left if i % 2 == 0 else self._top) + number * self._unit for i, number in enumerate(numbers)]

    def shape(self, *points: float, fill: Colour | None = None) -> None:
        self._draw.polygon(self._at(*points), fill=fill or self.fill, outline=OUTLINE, width=self._line)

    def oval(self, *box: float, fill: Colour | None = None) -> None:
        self._draw.ellipse(self._at(*box), fill=fill or self.fill, outline=OUTLINE, width=self._line)

    def block(self, *box: float, fill: Colour | None = None) -> None:
        self._draw.rectangle(self._at(*box), fill=fill or self.fill, outline=OUTLINE, width=self._line)

    def dot(self, x: float, y: float, r: float = 0.045, fill: Colour = OUTLINE) -> None:
        self._draw.ellipse(self._at(x - r, y - r, x + r, y + r), fill=fill)

    def line(self, *points: float) -> None:
        self._draw.line(self._at(*points), fill=OUTLINE, width=self._line)


def _car(p: _Pen) -> None:
    p.shape(0.18, 0.5, 0.32, 0.22, 0.68, 0.22, 0.84, 0.5)
    p.shape(0.27, 0.48, 0.36, 0.28, 0.49, 0.28, 0.49, 0.48, fill=GLASS)
    p.shape(0.54, 0.48, 0.54, 0.28, 0.65, 0.28, 0.74, 0.48, fill=GLASS)
    p.block(0.0, 0.48, 1.0, 0.76)
    for x in (0.24, 0.76):
        p.oval(x - 0.14, 0.64, x + 0.14, 0.92, fill=(52, 52, 58))
        p.dot(x, 0.78, 0.05, fill=(210, 210, 214))


def _dog(p: _Pen) -> None:
    p.shape(0.02, 0.36, 0.1, 0.26, 0.2, 0.52, 0.14, 0.6, fill=p.shade)  # tail, up
    for x in (0.14, 0.28, 0.52, 0.66):
        p.block(x, 0.66, x + 0.1, 0.96)
    p.oval(0.08, 0.42, 0.8, 0.78)
    p.oval(0.56, 0.14, 0.92, 0.52)
    p.oval(0.78, 0.3, 1.0, 0.5)  # snout
    p.oval(0.54, 0.16, 0.68, 0.52, fill=p.shade)  # hanging ear
    p.dot(0.78, 0.28)
    p.dot(0.96, 0.37)


def _cat(p: _Pen) -> None:
    p.oval(0.22, 0.44, 0.78, 0.98)  # sits and looks at you
    p.shape(0.74, 0.92, 0.98, 0.7, 0.9, 0.5, 0.84, 0.52, 0.88, 0.7, 0.7, 0.84, fill=p.shade)
    p.shape(0.2, 0.32, 0.22, 0.0, 0.46, 0.16, fill=p.shade)
    p.shape(0.8, 0.32, 0.78, 0.0, 0.54, 0.16, fill=p.shade)
    p.oval(0.18, 0.1, 0.82, 0.58)
    p.dot(0.38, 0.3, 0.06)
    p.dot(0.62, 0.3, 0.06)
    p.line(0.06, 0.36, 0.36, 0.42)
    p.line(0.94, 0.36, 0.64, 0.42)
    p.dot(0.5, 0.42, 0.04)


def _bird(p: _Pen) -> None:
    p.shape(0.0, 0.42, 0.26, 0.5, 0.2, 0.66, 0.02, 0.6, fill=p.shade)  # tail
    p.oval(0.14, 0.34, 0.76, 0.78)
    p.oval(0.56, 0.14, 0.88, 0.48)
    p.shape(0.86, 0.26, 1.0, 0.33, 0.86, 0.38, fill=(250, 176, 32))
    p.shape(0.24, 0.48, 0.58, 0.46, 0.4, 0.14, fill=p.shade)  # raised wing
    p.dot(0.76, 0.27)
    p.line(0.4, 0.76, 0.4, 0.96)
    p.line(0.54, 0.76, 0.54, 0.96)


def _fish(p: _Pen) -> None:
    p.shape(0.34, 0.3, 0.6, 0.1, 0.66, 0.32, fill=p.shade)
    p.shape(0.0, 0.22, 0.3, 0.5, 0.0, 0.78, fill=p.shade)
    p.oval(0.18, 0.26, 1.0, 0.76)
    p.dot(0.82, 0.44, 0.06)
    p.line(0.66, 0.36, 0.62, 0.5, 0.66, 0.66)
    p.line(0.48, 0.36, 0.44, 0.5, 0.48, 0.66)


def _boat(p: _Pen) -> None:
    p.line(0.5, 0.04, 0.5, 0.66)
    p.shape(0.54, 0.06, 0.54, 0.58, 0.94, 0.58)
    p.shape(0.46, 0.16, 0.46, 0.58, 0.12, 0.58, fill=p.shade)
    p.shape(0.0, 0.66, 1.0, 0.66, 0.82, 0.94, 0.18, 0.94)


def _house(p: _Pen) -> None:
    p.block(0.1, 0.44, 0.9, 0.96)
    p.shape(0.0, 0.46, 0.5, 0.04, 1.0, 0.46, fill=p.shade)
    p.block(0.42, 0.64, 0.6, 0.96, fill=(104, 68, 40))
    p.block(0.18, 0.56, 0.34, 0.72, fill=GLASS)
    p.block(0.68, 0.56, 0.84, 0.72, fill=GLASS)


def _tree(p: _Pen) -> None:
    p.block(0.42, 0.58, 0.58, 0.98, fill=(116, 76, 44))
    p.oval(0.04, 0.28, 0.54, 0.7)
    p.oval(0.46, 0.28, 0.96, 0.7)
    p.oval(0.22, 0.02, 0.78, 0.56)


_ARTISTS: dict[str, Callable[[_Pen], None]] = {
    "car": _car, "dog": _dog, "cat": _cat, "bird": _bird, "fish": _fish, "boat": _boat, "house": _house, "tree": _tree,
}  # fmt: skip


def _ground(draw: ImageDraw.ImageDraw, background: str, rng: random.Random) -> None:
    side = SIDE * _SCALE
    horizon = int(side * rng.uniform(0.3, 0.5))

    def land(sky: Colour, ground: Colour) -> None:
        draw.rectangle((0, 0, side, horizon), fill=sky)
        draw.rectangle((0, horizon, side, side), fill=ground)

    def places(count: int, top: int = 0) -> Sequence[tuple[int, int]]:
        return [(rng.randrange(side), rng.randrange(top, side)) for _ in range(count)]

    if background == "grass":
        land((164, 208, 240), (122, 178, 92))
        for x, y in places(70, horizon):
            draw.line((x, y, x + 4, y - 12), fill=(84, 138, 60), width=3)
    elif background == "snow":
        land((176, 186, 200), (226, 232, 240))
        for x, y in places(60):
            draw.ellipse((x, y, x + 7, y + 7), fill=(255, 255, 255))
    elif background == "sand":
        land((170, 214, 226), (222, 194, 142))
        for x, y in places(160, horizon):
            draw.ellipse((x, y, x + 4, y + 4), fill=(186, 154, 102))
    elif background == "water":
        land((206, 224, 236), (70, 138, 176))
        for x, y in places(40, horizon):
            draw.arc((x, y, x + 26, y + 12), 180, 360, fill=(168, 208, 226), width=3)
    elif background == "night":
        land((22, 24, 56), (40, 46, 62))
        for x, y in places(40):
            if y < horizon:
                draw.ellipse((x, y, x + 6, y + 6), fill=(250, 244, 190))
    else:
        draw.rectangle((0, 0, side, side), fill=(168, 108, 88))
        for row, y in enumerate(range(0, side, 32)):
            draw.line((0, y, side, y), fill=(208, 184, 170), width=4)
            for x in range(-(row % 2) * 32, side, 64):
                draw.line((x, y, x, y + 32), fill=(208, 184, 170), width=4)


def draw(scene: Scene) -> Image.Image:
    """The scene's picture, RGB, ``SIDE`` by ``SIDE`` pixels; the same for the same scene."""
    picture = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE))
    canvas = ImageDraw.Draw(picture)
    _ground(canvas, scene.background, random.Random(scene.seed))
    for thing in scene.things:
        _ARTISTS[thing.category](_Pen(canvas, thing))
    return picture.reduce(_SCALE)
