"""A :class:`Sample` is one image with what is known of it; samples come from a folder or from the embedded scenes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from lesion.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SCENES = "scenes"
"""The name of the embedded data in a study's options."""


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        id: Unique within the data: the path below the folder, or ``scene-SEED``.
        image: RGB.
        category: The subfolder, or the scene's first object; None where there is none.
        reference: A true caption, where the data has one.
    """

    id: str
    image: Image.Image
    category: str | None = None
    reference: str | None = None

    @property
    def digest(self) -> str:
        """Hash of the id, the pixels and the reference, 16 hexadecimal digits."""
        text = hashlib.sha256(f"{self.id}|{self.image.size}|{self.reference}|".encode())
        text.update(self.image.tobytes())
        return text.hexdigest()[:16]


def digest(samples: Sequence[Sample]) -> str:
    """Hash of several samples in their order."""
    return hashlib.sha256("".join(s.digest for s in samples).encode()).hexdigest()[:16]


def load_samples(
    source: str, count: int, seed: int = 0, strict: bool = False, warn: Callable[[str], None] = lambda _: None
) -> list[Sample]:
    """Chooses samples; the same source, count and seed give the same ones.

    Args:
        source: ``"scenes"`` for the embedded held-out scenes, or a folder of images; a subfolder is a category.
        count: How many; fewer where the folder has not as many (with a warning).
        seed: Which.
        strict: An unreadable image is an error, not a warning.
        warn: Called with one line for each image that is skipped.

    Raises:
        DataError: No such folder, no image in it, none that can be read, or (``strict``) one that cannot.
    """
    if count < 1:
        raise DataError(f"samples is {count}; expected at least 1")
    if source == SCENES:
        return _scenes(count, seed)
    return _folder(Path(source), count, seed, strict, warn)


def _scenes(count: int, seed: int) -> list[Sample]:
    from lesion.zoo import captions, drawing, scenes

    try:
        chosen = scenes.held_out(count, seed)
    except ValueError as error:
        raise DataError(f"embedded scenes: {error}") from None
    return [Sample(f"scene-{s.seed}", drawing.draw(s), s.main.category, captions.caption(s)) for s in chosen]


def _folder(folder: Path, count: int, seed: int, strict: bool, warn: Callable[[str], None]) -> list[Sample]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected a folder of images (a subfolder is a category)")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise DataError(f"{folder} has no image; expected files ending in {', '.join(sorted(SUFFIXES))}")
    random.Random(seed).shuffle(paths)
    samples: list[Sample] = []
    for path in paths:
        if len(samples) == count:
            break
        image = _read(path, strict, warn)
        if image is not None:
            inside = path.relative_to(folder)
            samples.append(Sample(inside.as_posix(), image, inside.parts[0] if len(inside.parts) > 1 else None))
    if not samples:
        raise DataError(f"none of the {len(paths)} images in {folder} can be read")
    if len(samples) < count:
        warn(f"{folder} has {len(samples)} readable images; {count} were asked for, all are used")
    return samples


def _read(path: Path, strict: bool, warn: Callable[[str], None]) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = f"{path} cannot be read as an image ({error})"
    if strict:
        raise DataError(f"{reason}; remove it, or leave out --strict to skip it")
    warn(f"{reason}; skipped")
    return None
