"""Where images come from: what ``--data`` names, as a list of :class:`Entry` that nothing has been read of yet.

==================================================  ============================================================
``DIR``                                             a folder of images; a subfolder is a category. ``metadata.jsonl`` or
                                                    ``captions.txt`` in it give references (and categories)
``FILE.jsonl``                                      a line an image: ``{"image": ..., "prompt": ..., "answer": ...,
                                                    "category": ...}``, all but the image optional
``coco:DIR:instances.json[:captions.json]``         COCO's own files; an image's category is its largest object's
==================================================  ============================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lesion.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
COCO = "coco:"
METADATA, CAPTIONS = "metadata.jsonl", "captions.txt"
_REFERENCE, _CATEGORY = ("answer", "text", "caption"), ("category", "label")


@dataclass(frozen=True)
class Entry:
    """An image that can be read, and what is said of it.

    Attributes:
        id: Unique within the data.
        path: The image's file.
        category: None where there is none.
        reference: A true caption or answer.
        prompt: What is asked of this image instead of the study's prompt.
        inside: Every category that the image has something of, for choosing by category.
    """

    id: str
    path: Path
    category: str | None = None
    reference: str | None = None
    prompt: str | None = None
    inside: frozenset[str] = frozenset()


def entries(source: str, category: str | None = None) -> list[Entry]:
    """Everything that a source has, in an order that does not depend on the machine.

    Args:
        source: See the module.
        category: Only images of this category; in COCO, those with an object of it.

    Raises:
        DataError: No such folder or file, no image in it, a line that is not what it should be, or no image of the category.
    """
    if source.startswith(COCO):
        found = _coco(source)
    elif source.endswith(".jsonl"):
        found = _jsonl(Path(source))
    else:
        found = _folder(Path(source))
    if category is None:
        return found
    chosen = [replace(e, category=category) for e in found if category in (e.inside or {e.category})]
    if not chosen:
        names = sorted({name for e in found for name in (e.inside or {e.category}) if name})
        raise DataError(f"{source} has no image of category {category!r}; it has {', '.join(names[:20]) or 'no categories'}")
    return chosen


def _folder(folder: Path) -> list[Entry]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected a folder of images (a subfolder is a category)")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise DataError(f"{folder} has no image; expected files ending in {', '.join(sorted(SUFFIXES))}")
    said = {**_captions(folder / CAPTIONS), **_metadata(folder / METADATA)}
    made = []
    for path in paths:
        inside = path.relative_to(folder)
        name = inside.as_posix()
        about = said.get(name, {})
        category = _first(about, _CATEGORY) or (inside.parts[0] if len(inside.parts) > 1 else None)
        made.append(Entry(name, path, category, _first(about, _REFERENCE), about.get("prompt")))
    return made


def _metadata(file: Path) -> dict[str, dict[str, Any]]:
    """Hugging Face's ``metadata.jsonl``: file name -> what is said of it."""
    if not file.exists():
        return {}
    return {str(row["file_name"]): row for _, row in _lines(file, "file_name")}


def _captions(file: Path) -> dict[str, dict[str, Any]]:
    """``captions.txt``: a file name, then a tab or the first comma, then a caption. Of several captions the first counts."""
    if not file.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        name, separator, caption = line.partition("\t") if "\t" in line else line.partition(",")
        if not line.strip() or (number == 1 and name.strip().lower() in ("image", "file_name", "filename")):
            continue
        if not separator:
            raise DataError(f"{file}, line {number}: expected a file name, a tab or comma, and a caption; found {line[:60]!r}")
        # Flickr8k numbers the captions of an image: name.jpg#0
        found.setdefault(name.strip().split("#")[0], {"caption": caption.strip()})
    return found


def _jsonl(file: Path) -> list[Entry]:
    made = []
    for number, row in _lines(file, "image"):
        path = Path(str(row["image"]))
        name = path.name if path.is_absolute() else path.as_posix()
        made.append(Entry(
            f"{number}:{name}", path if path.is_absolute() else file.parent / path, _first(row, _CATEGORY),
            _first(row, _REFERENCE), row.get("prompt"),
        ))  # fmt: skip
    if not made:
        raise DataError(f"{file} has no line; expected one JSON object an image, such as {{\"image\": \"a.png\"}}")
    return made


def _coco(source: str) -> list[Entry]:
    parts = source.removeprefix(COCO).split(":")
    if len(parts) not in (2, 3):
        raise DataError(f"{source!r}: expected coco:IMAGES_DIR:instances.json[:captions.json]")
    folder, instances = Path(parts[0]), Path(parts[1])
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected the folder of COCO's images")
    data = _coco_file(instances, ("images", "annotations", "categories"))
    names = {c["id"]: str(c["name"]) for c in data["categories"]}
    objects: dict[Any, dict[str, float]] = {}
    for note in data["annotations"]:
        sizes = objects.setdefault(note["image_id"], {})
        name, box = names.get(note["category_id"], str(note["category_id"])), note.get("bbox", (0, 0, 0, 0))
        sizes[name] = max(sizes.get(name, 0.0), float(note.get("area", box[2] * box[3])))
    captions: dict[Any, str] = {}
    if len(parts) == 3:
        for note in _coco_file(Path(parts[2]), ("annotations",))["annotations"]:
            captions.setdefault(note["image_id"], str(note["caption"]).strip())
    made = []
    for image in sorted(data["images"], key=lambda image: str(image["file_name"])):
        sizes = objects.get(image["id"], {})
        largest = max(sorted(sizes), key=lambda name: sizes[name], default=None)
        made.append(Entry(
            str(image["file_name"]), folder / str(image["file_name"]), largest, captions.get(image["id"]),
            inside=frozenset(sizes),
        ))  # fmt: skip
    if not made:
        raise DataError(f"{instances} lists no image")
    return made


def _coco_file(file: Path, needed: Iterable[str]) -> dict[str, Any]:
    try:
        data = json.loads(_text(file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from None
    missing = [name for name in needed if not isinstance(data, dict) or not isinstance(data.get(name), list)]
    if missing:
        raise DataError(f"{file} is not a COCO annotation file: it has no list {missing[0]!r}")
    return data


def _lines(file: Path, needed: str) -> list[tuple[int, dict[str, Any]]]:
    """A JSONL file's rows with their line numbers; each an object with the needed name."""
    found = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or needed not in row:
            raise DataError(f"{file}, line {number}: expected an object with {needed!r}; found {line.strip()[:60]}")
        found.append((number, row))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _first(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((str(row[name]) for name in names if row.get(name) is not None), None)
