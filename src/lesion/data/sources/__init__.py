"""Where images come from: what ``--data`` names, as a list of :class:`Entry` that no image has been read of yet.

==================================================  ============================================================
``DIR``                                             a folder of images; a subfolder is a category. ``metadata.jsonl`` or
                                                    ``captions.txt`` in it give references (and categories)
``FILE.jsonl``                                      a line an image: ``{"image": ..., "prompt": ..., "answer": ...,
                                                    "category": ...}``, all but the image optional; for models that
                                                    read text alone, all but the prompt
``FILE.txt``                                        a line a prompt, for models that read text alone
``coco:DIR:instances.json[:captions.json]``         COCO's own files; an image's category is its largest object's
``DIR`` or ``FILE.parquet``                         parquet files with a column of images
``DIR`` or ``FILE.tar``                             webdataset shards: ``key.jpg`` with ``key.txt`` or ``key.json``
``DIR``                                             what ``Dataset.save_to_disk`` wrote
``hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]``       a data set of the Hugging Face hub
==================================================  ============================================================

Kinds are in :mod:`~lesion.data.sources.files`, :mod:`~lesion.data.sources.tables` and :mod:`~lesion.data.sources.shards`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lesion.core.errors import DataError
from lesion.data.sources import files, shards, tables
from lesion.data.sources.entry import SUFFIXES, Entry, files_in, is_folder, readable, regular

__all__ = ["Entry", "entries", "readable", "regular"]


def entries(source: str, category: str | None = None) -> list[Entry]:
    """Everything that a source has, in an order that does not depend on the machine.

    Args:
        source: See the module.
        category: Only images of this category; in COCO, those with an object of it.

    Raises:
        DataError: No such folder or file, no image in it, a line that is not what it should be, or no image of the category.
    """
    every = _all(source)
    if category is None:
        return every
    chosen = [replace(e, category=category) for e in every if category in (e.inside or {e.category})]
    if not chosen:
        names = sorted({name for e in every for name in (e.inside or {e.category}) if name})
        raise DataError(f"{source} has no image of category {category!r}; it has {', '.join(names[:20]) or 'no categories'}")
    return chosen


def _all(source: str) -> list[Entry]:
    if source.startswith(files.COCO):
        return files.coco(source)
    if source.startswith(tables.HUB):
        return tables.hub(source)
    path = Path(source)
    if is_folder(path):
        return _folder(path)
    readers = {".jsonl": files.jsonl, ".txt": files.prompts, tables.PARQUET: tables.parquet, shards.TAR: shards.webdataset}
    if path.suffix in readers:
        return readers[path.suffix](path)
    hint = f"; a data set of the Hugging Face hub is {tables.HUB}{path}" if tables.like_id(str(path)) else ""
    raise DataError(f"{path} is not a folder; expected a folder of images (a subfolder is a category){hint}")


def _folder(folder: Path) -> list[Entry]:
    """By what lies in it. Images go first: an archive may lie beside what was unpacked from it."""
    inside = files_in(folder)
    if tables.is_saved(folder, inside):
        return tables.saved(folder)
    suffixes = {path.suffix.lower() for path in inside}
    if not suffixes & SUFFIXES:
        if tables.PARQUET in suffixes:
            return tables.parquet(folder)
        if shards.TAR in suffixes:
            return shards.webdataset(folder)
    return files.images(folder, inside)
