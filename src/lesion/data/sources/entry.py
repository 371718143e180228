"""What a source says of one image, and under which names it says it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
REFERENCE, CATEGORY, PROMPT = ("answer", "text", "caption", "captions", "txt"), ("category", "label"), ("prompt", "question")
"""The names that are read, in every kind of source; of those that are there, the first counts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that can be read, and what is known of it.

    Attributes:
        id: Unique within the data.
        image: The image's file, or what reads its bytes when called: an image inside a larger file has none of its own. None
            for a prompt without an image.
        category: None where there is none.
        reference: A true caption or answer.
        prompt: What is asked of this image instead of the study's prompt.
        inside: Every category that the image has something of, for choosing by category.
    """

    id: str
    image: Path | Callable[[], bytes] | None
    category: str | None = None
    reference: str | None = None
    prompt: str | None = None
    inside: frozenset[str] = frozenset()

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return str(self.image) if isinstance(self.image, Path) else self.id

    def open(self) -> Path | io.BytesIO:
        """What Pillow opens.

        Raises:
            OSError, ValueError: The bytes cannot be had, or there is no image.
        """
        if self.image is None:
            raise ValueError("there is no image")
        return self.image if isinstance(self.image, Path) else io.BytesIO(self.image())


def first(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """What a row says under the first of the names that says anything; of a list, its first item."""
    for name in names:
        value = row.get(name)
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
        if value is not None and not isinstance(value, Mapping):
            return str(value)
    return None


def within(root: Path, suffix: str) -> list[tuple[str, Path]]:
    """The files of a kind in a folder with their names below it, in one order on every machine; or a file itself."""
    if not root.is_dir():
        return [(root.name, root)]
    return sorted((p.relative_to(root).as_posix(), p) for p in root.rglob("*") if p.suffix.lower() == suffix and p.is_file())
