"""Files that list images: lines of JSON, captions, COCO's annotations, tar and parquet files, each damaged in its own ways."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bad_input.checker import Case, as_anybody, table
from tests.bad_input.test_images import WHOLE, picture


def study(data: str) -> str:
    return f"study --data {data} --out run"


def writes(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Makes a folder ``d`` with a good image, and a file beside it."""

    def make(folder: Path) -> None:
        (folder / "d").mkdir()
        (folder / "d" / "a.png").write_bytes(WHOLE)
        (folder / "d" / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


LINES = study("d/x.jsonl")
COCO = study("coco:d:d/x.json")


def coco(**changed: Any) -> Callable[[Path], object]:
    """Makes COCO's annotations with some lists changed."""
    whole: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 7, "name": "car"}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}],
    }  # fmt: skip
    return writes("x.json", json.dumps({**whole, **changed}))


def tar(**contents: bytes) -> bytes:
    """A tar file; ``__`` in a name is its dot."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def endless() -> bytes:
    """A tar file whose text is a hole of a terabyte, of which nothing is stored."""
    hole = tarfile.TarInfo("a.txt")
    hole.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(hole.tobuf(tarfile.GNU_FORMAT))
    head[386:482] = b"\0" * 96
    head[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + tar(a__png=WHOLE)


def packed() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(WHOLE)
        archive.addfile(member, io.BytesIO(WHOLE))
    return data.getvalue()


def parquet(columns: dict[str, Any], cut: int | None = None) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (folder / "d").mkdir()
        pq.write_table(pa.table(columns), folder / "d" / "x.parquet")
        file = folder / "d" / "x.parquet"
        file.write_bytes(file.read_bytes()[:cut])

    return make


def rowless(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "d").mkdir()
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), folder / "d" / "x.parquet")


CASES = [
    # -- lines of JSON -------------------------------------------------------------------------------------------------
    Case("not there", lambda f: None, study("x.jsonl"),
         "x.jsonl cannot be read: No such file or directory; give another --data"),
    Case("empty", writes("x.jsonl", ""), LINES, "d/x.jsonl has no line; expected one JSON object an image"),
    Case("blank lines", writes("x.jsonl", "\n \n"), LINES, "d/x.jsonl has no line; expected one JSON object an image"),
    Case("binary", writes("x.jsonl", bytes(range(256))), LINES, "d/x.jsonl cannot be read: ... expected text in UTF-8"),
    Case("a line cut off", writes("x.jsonl", '{"image": "a.png"}\n{"image"'), LINES, "d/x.jsonl, line 2 is not JSON: ... mend"),
    Case("a line without end", writes("x.jsonl", "[" * 100_000), LINES, "d/x.jsonl, line 1 is not JSON: ... mend or remove it"),
    Case("a number of 5,000 digits", writes("x.jsonl", "9" * 5000), LINES,
         "d/x.jsonl, line 1 is not JSON: ... mend or remove it"),
    Case("a list", writes("x.jsonl", "[1]"), LINES, "d/x.jsonl, line 1: expected an object; found [1]"),
    Case("without an image", writes("x.jsonl", '{"picture": "a.png"}'), LINES,
         "line 1: expected an object with 'image' ... found picture"),
    Case("an empty object", writes("x.jsonl", "{}"), LINES, "line 1: expected an object with 'image' ... found nothing"),
    Case("images that are gone", writes("x.jsonl", '{"image": "b.png"}\n'), f"{LINES} --strict",
         "d/b.png cannot be read ... No such file"),
    Case("an image that is a number", writes("x.jsonl", '{"image": 3}\n'), f"{LINES} --strict",
         "d/3 cannot be read as an image"),
    Case("an image that is a folder", writes("x.jsonl", '{"image": "."}\n'), f"{LINES} --strict",
         "cannot be read as an image (Is a"),
    Case("no such category", writes("x.jsonl", '{"image": "a.png"}\n'), f"{LINES} --category car",
         "no image of category 'car'; it has"),
    Case("a folder called jsonl", lambda f: (f / "x.jsonl").mkdir(), study("x.jsonl"),
         "x.jsonl has no image; expected files ending in"),
    Case("a pipe called jsonl", lambda f: os.mkfifo(f / "x.jsonl"), study("x.jsonl"),
         "x.jsonl cannot be read: it is a device or a pipe"),
    Case("a path below a file", writes("x.jsonl", ""), study("d/x.jsonl/y.jsonl"),
         "d/x.jsonl/y.jsonl cannot be read: Not a directory"),
    # -- what is said of a folder's images -----------------------------------------------------------------------------
    Case("captions without a separator", writes("captions.txt", "a.png"), study("d"),
         "d/captions.txt, line 1: expected a file name, a tab"),
    Case("captions that are binary", writes("captions.txt", b"\xff\xfe\x00"), study("d"),
         "d/captions.txt cannot be read: ... expected text"),
    Case("captions that are a pipe", lambda f: (writes("x", "")(f), os.mkfifo(f / "d/captions.txt")), study("d"),
         "captions.txt cannot be"),
    Case("metadata without a name", writes("metadata.jsonl", '{"text": "x"}'), study("d"),
         "metadata.jsonl, line 1: expected ... found text"),
    Case("metadata cut off", writes("metadata.jsonl", '{"file_name": "a.p'), study("d"),
         "metadata.jsonl, line 1 is not JSON: ... mend"),
    # -- prompts -------------------------------------------------------------------------------------------------------
    Case("no prompt", writes("x.txt", " \n\n"), study("d/x.txt"), "d/x.txt has no line; expected a prompt a line"),
    Case("prompts that are binary", writes("x.txt", b"\xff\xff"), study("d/x.txt"),
         "d/x.txt cannot be read: ... expected text in UTF-8"),
    # -- COCO ----------------------------------------------------------------------------------------------------------
    Case("coco without images", lambda f: None, study("coco:d:x.json"),
         "d is not a folder; expected the folder of COCO's images"),
    Case("coco without annotations", writes("y", ""), COCO,
         "d/x.json cannot be read: No such file or directory; give another --data"),
    Case("coco with a part too much", writes("y", ""), study("coco:d:a:b:c"),
         "expected coco:IMAGES_DIR:instances.json[:captions.json]"),
    Case("coco cut off", writes("x.json", '{"images": ['), COCO, "d/x.json is not JSON: ... expected COCO's annotations"),
    Case("coco nested without end", writes("x.json", "[" * 100_000), COCO,
         "d/x.json is not JSON: ... expected COCO's annotations"),
    Case("coco that is a list", writes("x.json", "[]"), COCO,
         "d/x.json is not a COCO annotation file: it has no list 'images'; expected"),
    Case("coco's captions as instances", coco(categories=None), COCO,
         "d/x.json is not a COCO ... no list 'categories'; expected"),
    Case("coco of nothing", coco(images=[], annotations=[]), COCO, "d/x.json lists no image; expected"),
    Case("an image without a name", coco(images=[{"id": 1}]), COCO,
         "d/x.json is not a COCO annotation file: ... 'file_name' ... expected"),
    Case("an image that is a word", coco(images=["a.png"]), COCO, "d/x.json is not a COCO annotation file: ... expected"),
    Case("an id that is a list", coco(images=[{"id": [1], "file_name": "a.png"}]), COCO,
         "d/x.json is not a COCO annotation file: ... expected"),
    Case("a box of two numbers", coco(annotations=[{"image_id": 1, "category_id": 7, "bbox": [0, 0]}]), COCO,
         "not a COCO ... expected"),
    Case("an area in words", coco(annotations=[{"image_id": 1, "category_id": 7, "area": "big"}]), COCO,
         "not a COCO ... expected"),
    Case("a category without a name", coco(categories=[{"id": 7}]), COCO, "d/x.json is not a COCO ... 'name' ... expected"),
    Case("captions of nothing", lambda f: (coco()(f), (f / "c.json").write_text('{"annotations": [{"image_id": 1}]}')),
         study("coco:d:d/x.json:c.json"), "is not a COCO annotation file: ... 'caption' ... expected"),
    # -- tar -----------------------------------------------------------------------------------------------------------
    Case("no tar", lambda f: None, study("x.tar"), "x.tar is not a file; expected a tar file"),
    Case("a tar of text", writes("x.tar", "once upon a time"), study("d/x.tar"),
         "x.tar cannot be read as a tar file: ... expected one that"),
    Case("an empty tar", writes("x.tar", b""), study("d/x.tar"),
         "d/x.tar cannot be read as a tar file: ... expected one that is whole"),
    Case("a tar cut off", writes("x.tar", tar(a__png=WHOLE)[:1500]), study("d/x.tar"),
         "d/x.tar cannot be read as a tar file: ... expected"),
    Case("a packed tar", writes("x.tar", packed()), study("d/x.tar"),
         "d/x.tar cannot be read as a tar file: ... whole and not packed"),
    Case("a tar without images", writes("x.tar", tar(a__txt=b"x")), study("d/x.tar"),
         "d/x.tar has no image; expected KEY.jpg with"),
    Case("a tar with broken json", writes("x.tar", tar(a__png=WHOLE, a__json=b"{")), study("d/x.tar"),
         "a.json is not JSON: ... expected"),
    Case("a tar with json without end", writes("x.tar", tar(a__png=WHOLE, a__json=b"[" * 10**5)), study("d/x.tar"),
         "a.json is not JSON"),
    Case("a tar with a list", writes("x.tar", tar(a__png=WHOLE, a__json=b"[]")), study("d/x.tar"),
         "expected an object in a.json; found []"),
    Case("a tar with latin-1", writes("x.tar", tar(a__png=WHOLE, a__txt=b"\xfc")), study("d/x.tar"),
         "a.txt is no text: ... expected UTF-8"),
    Case("a tar with a text of a terabyte", writes("x.tar", endless()), study("d/x.tar"),
         "d/x.tar: a.txt is no text: expected at most 16,777,216 bytes"),
    Case("a tar with a broken image", writes("x.tar", tar(a__png=b"x")), f"{study('d/x.tar')} --strict",
         "x.tar/a cannot be read as an image"),
    # -- parquet -------------------------------------------------------------------------------------------------------
    Case("no parquet", lambda f: None, study("x.parquet"), "x.parquet is not a file; expected a parquet file"),
    Case("a parquet of text", writes("x.parquet", "text"), study("d/x.parquet"),
         "d/x.parquet cannot be loaded: ... expected what `datasets`"),
    Case("an empty parquet", writes("x.parquet", b""), study("d/x.parquet"),
         "d/x.parquet cannot be loaded: ... expected what `datasets`"),
    Case("a parquet cut off", parquet({"image": [WHOLE]}, 500), study("d/x.parquet"),
         "d/x.parquet cannot be loaded: ... expected what"),
    Case("a parquet without images", parquet({"text": ["a"]}), study("d"),
         "x.parquet has no column of images; expected ... it has text"),
    Case("a parquet of numbers", parquet({"image": [3]}), study("d"),
         "x.parquet has no column of images; expected ... it has image"),
    Case("a parquet without rows", rowless, study("d"), "d has no rows; expected a row an image"),
    Case("a parquet with broken images", parquet({"image": [b"x"]}), f"{study('d')} --strict",
         "x.parquet/0 cannot be read as an image"),
    # -- what save_to_disk wrote ---------------------------------------------------------------------------------------
    Case("a saved data set that is none", writes("dataset_dict.json", '{"splits": ["train"]}'), study("d"),
         "d cannot be loaded: ... expected"),
    Case("a saved data set that is empty", writes("dataset_dict.json", ""), study("d"),
         "d cannot be loaded: ... expected what `datasets`"),
]  # fmt: skip


@table(CASES)
def test_a_file_of_data_that_is_damaged_is_said_to_be(check: Callable[..., str], case: Case):
    check(case)


@pytest.mark.parametrize("name", ["x.jsonl", "x.txt", "x.tar", "x.parquet", "captions.txt", "metadata.jsonl"])
def test_a_file_of_data_that_may_not_be_read(check: Callable[..., str], name: str):
    make = lambda folder: (writes(name, picture())(folder), (folder / "d" / name).chmod(0))  # noqa: E731
    data = "d" if name in ("captions.txt", "metadata.jsonl") else f"d/{name}"
    check(Case("mode 0", make, study(data), f"{name} cannot be ... Permission denied"), as_anybody())
