"""Images that are files of their own: in a folder, named by lines of JSON, or by COCO's annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lesion.core.errors import DataError
from lesion.data.sources.entry import (
    CATEGORY,
    PROMPT,
    REFERENCE,
    SUFFIXES,
    Entry,
    first,
    is_folder,
    readable,
    refuse,
    regular,
)
from lesion.data.sources.inside import named

COCO = "coco:"
METADATA, CAPTIONS = "metadata.jsonl", "captions.txt"


def images(folder: Path, inside: Sequence[Path]) -> list[Entry]:
    """A folder of images, with its subfolders; ``inside`` is what lies in them."""
    paths = [p for p in inside if p.suffix.lower() in SUFFIXES]
    if not paths:
        raise DataError(f"{folder} has no image; expected files ending in {', '.join(sorted(SUFFIXES))}")
    texts: dict[str, dict[str, Any]] = {}
    for name, read in ((CAPTIONS, _captions), (METADATA, _metadata)):
        if folder / name in inside:
            texts |= read(folder / name)
    made = []
    for path in paths:
        below = path.relative_to(folder)
        name = readable(below.as_posix())
        about = texts.get(name, {})
        category = first(about, CATEGORY) or (readable(below.parts[0]) if len(below.parts) > 1 else None)
        made.append(Entry(name, path, category, first(about, REFERENCE), first(about, PROMPT)))
    return made


def _metadata(file: Path) -> dict[str, dict[str, Any]]:
    """Hugging Face's ``metadata.jsonl``: file name -> its texts."""
    rows = _lines(file)
    for number, row in rows:
        if "file_name" not in row:
            raise DataError(f"{file}, line {number}: expected an object with 'file_name'; found {', '.join(row) or 'nothing'}")
    return {str(row["file_name"]): row for _, row in rows}


def _captions(file: Path) -> dict[str, dict[str, Any]]:
    """``captions.txt``: a file name, then a tab or the first comma, then a caption. Of several captions the first counts."""
    captions: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        name, separator, caption = line.partition("\t") if "\t" in line else line.partition(",")
        if not line.strip() or (number == 1 and name.strip().lower() in ("image", "file_name", "filename")):
            continue
        if not separator:
            raise DataError(f"{file}, line {number}: expected a file name, a tab or comma, and a caption; found {line[:60]!r}")
        # Flickr8k numbers the captions of an image: name.jpg#0
        captions.setdefault(name.strip().split("#")[0], {"caption": caption.strip()})
    return captions


def jsonl(file: Path) -> list[Entry]:
    """A line an image, or a line a prompt."""
    made = []
    for number, row in _lines(file):
        about = first(row, CATEGORY), first(row, REFERENCE), first(row, PROMPT)
        if row.get("image") is not None:
            path = Path(str(row["image"]))
            name = readable(path.name if path.is_absolute() else path.as_posix())
            try:
                image = named(file.parent, str(row["image"]))
            except ValueError as error:
                raise DataError(f"{file}, line {number}: {error}; put the file above its images") from None
            made.append(Entry(f"{number}:{name}", image, *about, root=file.parent))
        elif about[2] is not None:
            made.append(Entry(f"line-{number}", None, *about))
        else:
            raise DataError(
                f"{file}, line {number}: expected an object with 'image' (or with 'prompt' alone, for models that read text); "
                f"found {', '.join(row) or 'nothing'}"
            )
    if not made:
        raise DataError(f"{file} has no line; expected one JSON object an image, such as {{\"image\": \"a.png\"}}")
    return made


def prompts(file: Path) -> list[Entry]:
    """A line a prompt; empty lines are passed over."""
    lines = enumerate(_text(file).splitlines(), start=1)
    made = [Entry(f"line-{number}", None, prompt=line.strip()) for number, line in lines if line.strip()]
    if not made:
        raise DataError(f"{file} has no line; expected a prompt a line")
    return made


def coco(source: str) -> list[Entry]:
    """COCO's instances, with or without its captions."""
    parts = source.removeprefix(COCO).split(":")
    if len(parts) not in (2, 3):
        raise DataError(f"{source!r}: expected coco:IMAGES_DIR:instances.json[:captions.json]")
    folder, instances = Path(parts[0]), Path(parts[1])
    if not is_folder(folder):
        raise DataError(f"{folder} is not a folder; expected the folder of COCO's images")
    try:
        made = _coco(folder, instances, Path(parts[2]) if len(parts) == 3 else None)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        what = f"an entry has no {error}" if isinstance(error, KeyError) else f"{error}"
        raise DataError(f"{instances} is not a COCO annotation file: {what}; expected COCO's own entries") from None
    if not made:
        raise DataError(f"{instances} lists no image; expected COCO's list of images")
    return made


def _coco(folder: Path, instances: Path, captioned: Path | None) -> list[Entry]:
    data = _coco_file(instances, ("images", "annotations", "categories"))
    names = {c["id"]: readable(str(c["name"])) for c in data["categories"]}
    objects: dict[Any, dict[str, float]] = {}
    for note in data["annotations"]:
        sizes = objects.setdefault(note["image_id"], {})
        name, box = names.get(note["category_id"], str(note["category_id"])), note.get("bbox", (0, 0, 0, 0))
        # Each by itself: a text times a number would be as long as the number says.
        size = float(note["area"]) if "area" in note else float(box[2]) * float(box[3])
        sizes[name] = max(sizes.get(name, 0.0), size)
    captions: dict[Any, str] = {}
    if captioned is not None:
        for note in _coco_file(captioned, ("annotations",))["annotations"]:
            captions.setdefault(note["image_id"], readable(str(note["caption"])).strip())
    made = []
    for image in sorted(data["images"], key=lambda image: str(image["file_name"])):
        sizes = objects.get(image["id"], {})
        largest = max(sorted(sizes), key=lambda name: sizes[name], default=None)
        name = str(image["file_name"])
        about = largest, captions.get(image["id"])
        made.append(Entry(readable(name), named(folder, name), *about, inside=frozenset(sizes), root=folder))
    return made


def _coco_file(file: Path, needed: Iterable[str]) -> dict[str, Any]:
    try:
        data = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}; expected COCO's annotations") from None
    missing = [name for name in needed if not isinstance(data, dict) or not isinstance(data.get(name), list)]
    if missing:
        raise DataError(f"{file} is not a COCO annotation file: it has no list {missing[0]!r}; expected COCO's own")
    return data


def _lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """A JSONL file's rows with their line numbers; each an object."""
    rows = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number} is not JSON: {error}; mend or remove it") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: expected an object; found {line.strip()[:60]}")
        rows.append((number, row))
    return rows


def _text(file: Path) -> str:
    try:
        return regular(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} cannot be read: {error}; expected text in UTF-8") from None
    except (OSError, ValueError) as error:
        refuse(file, error)
