"""A :class:`Sample` is one image (or prompt) with what is known of it; from a source or from the embedded scenes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lesion.core.errors import DataError
from lesion.data.images import decode
from lesion.data.sources import Entry, entries, readable
from lesion.zoo.captions import DEFAULT_PROMPT as DEFAULT_PROMPT  # what a model is asked, if nothing else is said

SCENES, QUESTIONS, QUIZ, PROMPTS = "scenes", "questions", "quiz", "prompts"
"""The names of the embedded data in a study's options: scenes to describe, yes/no questions about them, questions of
three kinds, and plain prompts for models that read text alone."""
DRAWN = (SCENES, QUESTIONS, QUIZ)
"""Those whose images are the drawn scenes."""


@dataclass(frozen=True)
class Sample:
    """One image, or one prompt for a model that reads text alone.

    Attributes:
        id: Unique within the data: the path below the folder, ``SPLIT/ROW``, ``line-N``, or ``scene-SEED``.
        image: RGB; None for a model that reads text alone.
        category: The subfolder, what the data says, the scene's first object or the kind of question; None without one.
        reference: A true caption, where the data has one.
        prompt: What is asked of this image; None for the study's prompt.
    """

    id: str
    image: Image.Image | None
    category: str | None = None
    reference: str | None = None
    prompt: str | None = None

    @property
    def picture(self) -> Image.Image:
        """The image.

        Raises:
            DataError: There is none.
        """
        if self.image is None:
            raise DataError(f"sample {self.id} has no image, and the model reads images; expected samples with images")
        return self.image

    @property
    def digest(self) -> str:
        """Hash of the id, the pixels, the reference and the prompt, 16 hexadecimal digits."""
        own = "" if self.prompt is None else f"{self.prompt}|"
        size = None if self.image is None else self.image.size
        text = hashlib.sha256(f"{self.id}|{size}|{self.reference}|{own}".encode())
        text.update(b"" if self.image is None else self.image.tobytes())
        return text.hexdigest()[:16]


def digest(samples: Sequence[Sample]) -> str:
    """Hash of several samples in their order."""
    return hashlib.sha256("".join(s.digest for s in samples).encode()).hexdigest()[:16]


def load_samples(
    source: str,
    count: int,
    seed: int = 0,
    strict: bool = False,
    warn: Callable[[str], None] = lambda _: None,
    category: str | None = None,
) -> list[Sample]:
    """Chooses samples; the same source, count and seed give the same ones.

    Args:
        source: ``"scenes"`` for the embedded held-out scenes, ``"questions"`` for a yes/no question about each of them,
            ``"quiz"`` for one of three kinds (:mod:`lesion.zoo.quiz`), ``"prompts"`` for the embedded plain prompts, or what
            :mod:`lesion.data.sources` describes.
        count: How many; fewer where the source has not as many (with a warning).
        seed: Which.
        strict: An unreadable image is an error, not a warning.
        warn: Called with one line for each image that is skipped.
        category: Only images of this category; None for all.

    Raises:
        DataError: No such source, no image in it, none that can be read, or (``strict``) one that cannot.
    """
    if count < 1:
        raise DataError(f"samples is {count}; expected at least 1")
    if source == QUIZ:
        return _quiz(count, seed, category)
    if source in DRAWN:
        return _scenes(count, seed, category, source == QUESTIONS)
    return _choose(source, _entries(source, category), count, seed, strict, warn)


def load_image(path: str | Path) -> Sample:
    """One image file as a sample.

    Raises:
        DataError: It cannot be read as an image.
    """
    entry = Entry(readable(Path(path).name), Path(path))
    try:
        return Sample(entry.id, decode(entry))
    except DataError as error:
        raise DataError(f"{error}; expected an image file, such as PNG or JPEG") from None


def load_categories(
    source: str, count: int, seed: int = 0, strict: bool = False, warn: Callable[[str], None] = lambda _: None
) -> dict[str, list[Sample]]:
    """Chooses samples of every category; the same source, count and seed give the same ones.

    The embedded scenes of two categories differ in the kind of their first thing, and otherwise in nothing.

    Args:
        source: As for :func:`load_samples`.
        count: How many of each.
        seed: Which.
        strict: As for :func:`load_samples`.
        warn: Called with one line for each image that is skipped, and for each category that has not as many.

    Returns:
        Category -> samples; empty where the data has no categories.

    Raises:
        DataError: As for :func:`load_samples`.
    """
    if source == QUIZ:
        from lesion.zoo.quiz import KINDS

        return {kind: _quiz(count, seed, kind) for kind in KINDS}
    if source in DRAWN:
        from lesion.zoo.scenes import CATEGORIES

        return {category: _scenes(count, seed, category, source == QUESTIONS) for category in CATEGORIES}
    by_category: dict[str, list[Entry]] = {}
    for entry in _entries(source):
        if entry.category is not None:
            by_category.setdefault(entry.category, []).append(entry)
    return {
        name: _choose(f"category {name} of {source}", members, count, seed, strict, warn)
        for name, members in sorted(by_category.items())
    }


def halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The samples to rank on and those to measure on; the first half has the odd one."""
    middle = (len(samples) + 1) // 2
    return list(samples[:middle]), list(samples[middle:])


def split(samples: Sequence[Sample], how: str) -> tuple[list[Sample], list[Sample]]:
    """The samples to rank on and those to measure on: two halves, or (``how="same"``) all for both.

    Raises:
        DataError: One sample has no halves.
    """
    if how == "same":
        return list(samples), list(samples)
    if len(samples) < 2:
        raise DataError("one usable image; ranking on one half and measuring on the other needs two, or --split same")
    return halves(samples)


def _scenes(count: int, seed: int, category: str | None = None, questions: bool = False) -> list[Sample]:
    from lesion.zoo import captions, drawing, scenes

    if category is not None and category not in scenes.CATEGORIES:
        raise DataError(f"scenes have no category {category!r}; they have {', '.join(scenes.CATEGORIES)}")

    try:
        chosen = scenes.held_out(count, seed, category)
    except ValueError as error:
        raise DataError(f"embedded scenes: {error}") from None
    names = [f"scene-{s.seed}-{category}" if category else f"scene-{s.seed}" for s in chosen]
    samples = []
    for number, (name, scene) in enumerate(zip(names, chosen, strict=True)):
        prompt, reference = None, captions.caption(scene)
        if questions:
            # By turns about something that is there and something that is not.
            prompt, reference = next(q for q in captions.questions(scene) if q[1] == ("yes", "no")[number % 2])
        samples.append(Sample(name, drawing.draw(scene), scene.main.category, reference, prompt))
    return samples


def _quiz(count: int, seed: int, kind: str | None = None) -> list[Sample]:
    """Questions about scenes; their category is the kind of question."""
    from lesion.zoo import drawing, quiz

    try:
        asked = quiz.held_out(count, seed, kind)
    except ValueError as error:
        raise DataError(f"embedded quiz: {error}") from None
    return [
        Sample(f"scene-{q.scene.seed}-{q.kind}", drawing.draw(q.scene), q.kind, q.answer, q.question) for q in asked
    ]


def _entries(source: str, category: str | None = None) -> list[Entry]:
    """What a source lists; the embedded prompts are listed as those of a file are."""
    if source != PROMPTS:
        return entries(source, category)
    from lesion.zoo.prompts import BY_TOPIC

    if category is not None and category not in BY_TOPIC:
        raise DataError(f"prompts have no category {category!r}; they have {', '.join(BY_TOPIC)}")
    topics = BY_TOPIC if category is None else {category: BY_TOPIC[category]}
    return [
        Entry(f"{topic}-{i}", None, category=topic, prompt=prompt)
        for topic, prompts in topics.items()
        for i, prompt in enumerate(prompts)
    ]


def _choose(
    source: str, candidates: Sequence[Entry], count: int, seed: int, strict: bool, warn: Callable[[str], None]
) -> list[Sample]:
    """Reads entries in an order that the seed decides, until there are enough."""
    order = list(candidates)
    random.Random(seed).shuffle(order)
    samples: list[Sample] = []
    unread: list[str] = []

    def complain(line: str) -> None:
        unread.append(line)
        warn(f"{line}; skipped")

    for entry in order:
        if len(samples) == count:
            break
        image = None if entry.image is None else _read(entry, strict, complain)
        if image is not None or entry.image is None:
            samples.append(Sample(entry.id, image, entry.category, entry.reference, entry.prompt))
    if not samples:
        raise DataError(f"none of the {len(order):,} images in {source} can be read; the first: {unread[0]}")
    if len(samples) < count:
        kind = "prompts" if samples[0].image is None else "readable images"
        warn(f"{source} has {len(samples)} {kind}; fewer than the {count} that were wanted; all are used")
    return samples


def _read(entry: Entry, strict: bool, complain: Callable[[str], None]) -> Image.Image | None:
    try:
        return decode(entry)
    except DataError as error:
        if strict:
            raise DataError(f"{error}; remove it, or leave out --strict to skip it") from None
        complain(str(error))
        return None
