"""Writes the same rows as every kind of data set: parquet by two libraries, tar shards, and what ``save_to_disk`` writes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = datasets.ClassLabel(names=["car", "größe 图"])


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **how)
    return held.getvalue()


def flat(value: int = 0) -> bytes:
    return encoded(Image.new("RGB", (8, 6), (value, 0, 0)))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"bytes": flat(i), "caption": f"thing {i} ü", "label": i % 2} for i in range(count)]


# -- each kind of source, written from the same rows ---------------------------------------------------------------------
def table(given: Sequence[dict[str, Any]]) -> datasets.Dataset:
    columns = {
        "image": [{"bytes": row["bytes"], "path": None} for row in given],
        "caption": [row["caption"] for row in given], "label": [row["label"] for row in given],
    }  # fmt: skip
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string"), "label": CLASSES})
    return datasets.Dataset.from_dict(columns, features=features)


def halves(given: Sequence[dict[str, Any]]) -> list[tuple[int, Sequence[dict[str, Any]]]]:
    middle = (len(given) + 1) // 2
    return [(0, given[:middle]), (1, given[middle:])] if len(given) > 1 else [(0, given)]


def by_datasets(folder: Path, given: Sequence[dict[str, Any]]) -> None:
    for shard, part in halves(given):
        pq.write_table(table(part).with_format("arrow")[:], folder / f"train-{shard:05}.parquet", row_group_size=2)


def by_pyarrow(folder: Path, given: Sequence[dict[str, Any]]) -> None:
    """As someone writes it who knows nothing of features."""
    for shard, part in halves(given):
        held = [{"bytes": row["bytes"], "path": "x.png"} for row in part]
        names = pa.array([CLASSES.int2str(row["label"]) for row in part]).dictionary_encode()
        columns = {"picture": held, "caption": [[row["caption"], "other"] for row in part], "category": names}
        pq.write_table(pa.table(columns), folder / f"{shard}.parquet")


def by_tarfile(folder: Path, given: Sequence[dict[str, Any]]) -> None:
    for shard, part in halves(given):
        files: dict[str, bytes] = {}
        for number, row in enumerate(part):
            files[f"sub/{number:04}.png"] = row["bytes"]
            files[f"sub/{number:04}.txt"] = row["caption"].encode()
            files[f"sub/{number:04}.json"] = json.dumps({"label": CLASSES.int2str(row["label"])}).encode()
        tar(folder / f"{shard:05}.tar", files)


def by_saving(folder: Path, given: Sequence[dict[str, Any]]) -> None:
    parts: dict[Any, datasets.Dataset] = {("train", "test")[shard]: table(part) for shard, part in halves(given)}
    datasets.DatasetDict(parts).save_to_disk(str(folder))


def tar(file: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


KINDS = {"datasets": by_datasets, "pyarrow": by_pyarrow, "tar": by_tarfile, "saved": by_saving}
