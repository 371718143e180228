"""Images from parquet files, webdataset shards and saved data sets are those of the same files in a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lesion.core.errors import DataError
from lesion.data.samples import digest, load_categories, load_samples
from lesion.data.sources import Entry, entries
from lesion.study.study import Study
from tests import tiny_models
from tests.dataset_files import (
    CLASSES,
    KINDS,
    by_datasets,
    by_pyarrow,
    encoded,
    flat,
    rows,
    tar,
)


@pytest.fixture(params=sorted(KINDS))
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Writes rows as one kind of source, and says what to give to ``--data``."""

    def written(given: Sequence[dict[str, Any]], name: str = "dätä 图") -> str:
        folder = tmp_path / name
        folder.mkdir()
        KINDS[request.param](folder, given)
        return str(folder)

    return written


def images() -> dict[str, tuple[str, bytes]]:
    noise = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    colours = Image.fromarray(noise.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    deep = Image.fromarray(noise.integers(0, 65536, (12, 20), dtype=np.uint16))
    clear = Image.fromarray(noise.integers(0, 256, (12, 20, 4), dtype=np.uint8))
    return {
        "grey": (".png", encoded(colours.convert("L"))), "deep": (".png", encoded(deep)), "alpha": (".png", encoded(clear)),
        "cmyk": (".jpg", encoded(colours.convert("CMYK"), "JPEG")), "exif": (".jpg", encoded(colours, "JPEG", exif=turned)),
        "palette": (".gif", encoded(colours, "GIF")), "float": (".tif", encoded(deep.convert("F"), "TIFF")),
    }  # fmt: skip


# -- what all kinds have in common ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(images()))
def test_the_pixels_are_those_of_the_same_file(tmp_path, write, name):
    suffix, content = images()[name]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / f"a{suffix}").write_bytes(content)
    (expected,) = load_samples(str(tmp_path / "plain"), 1)
    (found,) = load_samples(write([{"bytes": content, "caption": "x", "label": 0}]), 1)
    assert found.picture.mode == "RGB" and found.picture.size == expected.picture.size
    assert found.picture.tobytes() == expected.picture.tobytes()
    assert len(set(found.picture.get_flattened_data())) > 20  # pyright: ignore[reportArgumentType]


def test_captions_and_categories_of_two_shards(write):
    source = write(rows(5))
    found = load_samples(source, 9)
    assert {(s.picture.getpixel((0, 0))[0], s.reference, s.category) for s in found} == {  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
        (i, f"thing {i} ü", ("car", "größe 图")[i % 2]) for i in range(5)
    }
    assert len({s.id for s in found}) == 5
    by_category = load_categories(source, 9)
    assert {name: len(members) for name, members in by_category.items()} == {"car": 3, "größe 图": 2}
    assert {s.id for s in load_samples(source, 9, category="car")} == {s.id for s in by_category["car"]}
    with pytest.raises(DataError, match="no image of category 'cat'; it has car, größe 图"):
        entries(source, "cat")


def test_the_same_seed_chooses_the_same_wherever_it_lies(write):
    here, there = write(rows(30), "here"), write(rows(30), "there")
    one, two, other = load_samples(here, 6, 1), load_samples(there, 6, 1), load_samples(here, 6, 2)
    assert [s.id for s in one] == [s.id for s in two] and digest(one) == digest(two) != digest(other)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_image_is_skipped_with_a_line_or_stops(write, damage):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise))
    bad = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no image"}[damage]
    source = write([{"bytes": bad, "caption": "bad", "label": 0}, *rows(2)])
    said: list[str] = []
    found = load_samples(source, 3, warn=said.append)
    (line,) = (s for s in said if s.endswith("skipped"))
    ids = {e.id for e in entries(source)}
    assert {s.id for s in found} == ids - {line.split(" cannot be read as an image")[0]} and len(found) == 2
    assert "0x" not in line  # an address in memory would differ from run to run
    with pytest.raises(DataError, match=r"cannot be read as an image.*--strict"):
        load_samples(source, 3, strict=True)


def test_only_chosen_images_are_opened(write, monkeypatch):
    source, opened = write(rows(40)), []
    real = Entry.open
    monkeypatch.setattr(Entry, "open", lambda entry: opened.append(entry.id) or real(entry))
    found = entries(source)
    assert len(found) == 40 and not opened
    assert [s.id for s in load_samples(source, 3)] == opened and len(opened) == 3


def test_a_study_of_a_table_is_that_of_a_folder(tmp_path):
    given = rows(4)
    for name in ("table", "plain/car"):
        (tmp_path / name).mkdir(parents=True)
    by_datasets(tmp_path / "table", given)
    lines = [{"file_name": f"car/{i}.png", "text": row["caption"]} for i, row in enumerate(given)]
    (tmp_path / "plain" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for i, row in enumerate(given):
        (tmp_path / "plain" / "car" / f"{i}.png").write_bytes(row["bytes"])
    asked = {"samples": 4, "clip": "none", "max_new_tokens": 4, "max_k": 1, "controls": 0, "target": "reference"}
    one, other = (
        Study(tiny_models.llava(), tmp_path / f"run-{name}", data=str(tmp_path / name), **asked).run()
        for name in ("table", "plain")
    )
    assert one.baseline == other.baseline and one.table() == other.table() and one.samples == 4


def test_ids_are_the_shard_and_the_row_or_key(tmp_path):
    made = {}
    for name, kind in KINDS.items():
        (tmp_path / name).mkdir()
        kind(tmp_path / name, rows(3))
        made[name] = [e.id for e in entries(str(tmp_path / name))]
    assert made == {
        "datasets": ["train-00000.parquet/0", "train-00000.parquet/1", "train-00001.parquet/0"],
        "pyarrow": ["0.parquet/0", "0.parquet/1", "1.parquet/0"],
        "tar": ["00000.tar/sub/0000", "00000.tar/sub/0001", "00001.tar/sub/0000"],
        "saved": ["train/0", "train/1", "test/0"],
    }
    assert [e.id for e in entries(str(tmp_path / "datasets" / "train-00001.parquet"))] == ["train-00001.parquet/0"]
    assert [e.id for e in entries(str(tmp_path / "tar" / "00001.tar"))] == ["00001.tar/sub/0000"]
    assert [e.id for e in entries(str(tmp_path / "saved" / "test"))] == ["row/0"]


# -- parquet ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", [{"row_group_size": 2}, {"write_batch_size": 1, "use_dictionary": False}])
def test_a_large_parquet_file_is_not_read_whole(tmp_path, layout):
    """Of many row groups one is read; of one large row group, some pages at a time."""
    values = np.random.default_rng(0).integers(0, 256, (200, 100, 200, 3), dtype=np.uint8)
    file = tmp_path / "a.parquet"
    held = [{"bytes": encoded(Image.fromarray(v), "BMP"), "path": None} for v in values]
    pq.write_table(pa.table({"image": held, "text": ["x"] * 200}), file, **layout)
    size, before = file.stat().st_size, pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        found = entries(str(file))
        assert len(found) == 200 and (pool.max_memory() or 0) < 0.02 * size
        chosen = load_samples(str(file), 3)
    finally:
        pa.set_memory_pool(before)
    assert 0 < (pool.max_memory() or 0) < 0.4 * size
    for sample in chosen:
        np.testing.assert_array_equal(np.asarray(sample.picture), values[int(sample.id.rpartition("/")[2])])


def test_images_by_name_bytes_and_path(tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "ü.png").write_bytes(flat(7))
    said = {"url": ["a", "b"], "question": ["Red?", None], "answer": ["yes", None], "text": ["t", "u"]}
    pq.write_table(pa.table({"jpg": [flat(1), None], **said}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"file_name": ["pics/ü.png", "pics/gone.png"], "label": [3, -1]}), tmp_path / "b.parquet")
    held = pa.array([{"bytes": None, "path": "pics/ü.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"anything": held}), tmp_path / "c.parquet")
    lines: list[str] = []
    one, two, three = (load_samples(str(tmp_path / f"{n}.parquet"), 2, warn=lines.append) for n in "abc")
    assert [(s.prompt, s.reference, s.picture.getpixel((0, 0))) for s in one] == [("Red?", "yes", (1, 0, 0))]
    assert [(s.id, s.category, s.picture.getpixel((0, 0))) for s in two] == [("b.parquet/0", "3", (7, 0, 0))]
    assert [s.picture.getpixel((0, 0)) for s in three] == [(7, 0, 0)]
    skipped = [line for line in lines if line.endswith("skipped")]
    assert len(skipped) == 2 and "a.parquet/1" in skipped[0] and "has none" in skipped[0] and "b.parquet/1" in skipped[1]


def test_of_several_columns_the_named_one_with_the_feature_counts(tmp_path):
    features = datasets.Features({
        "mask": datasets.Image(), "image": datasets.Image(), "label": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")), "text": datasets.List({"user": datasets.Value("string")}),
        "category": datasets.List(CLASSES),
    })  # fmt: skip
    blob = [{"bytes": flat(i), "path": None} for i in range(3)]
    row = {"mask": blob[0], "image": blob[1], "label": blob[2], "captions": [], "text": [{"user": "Hi"}], "category": [1, 0]}
    more = {**row, "captions": ["one", "two"], "category": []}
    datasets.Dataset.from_list([row, more], features=features).save_to_disk(str(tmp_path / "d"))
    found = sorted(load_samples(str(tmp_path / "d"), 2), key=lambda s: s.id)
    assert [(s.picture.getpixel((0, 0)), s.reference, s.category) for s in found] == [
        ((1, 0, 0), None, "größe 图"), ((1, 0, 0), "one", None),
    ]  # fmt: skip


def test_the_feature_goes_before_a_name_and_bytes_are_no_caption(tmp_path):
    image, blob = datasets.Image(), datasets.Value("binary")
    features = datasets.Features({"image": blob, "scan": image, "caption": blob, "txt": datasets.Value("string")})
    row = {"image": flat(1), "scan": {"bytes": flat(2), "path": None}, "caption": b"raw", "txt": "a caption"}
    datasets.Dataset.from_list([row], features=features).save_to_disk(str(tmp_path / "d"))
    (found,) = load_samples(str(tmp_path / "d"), 1)
    assert (found.picture.getpixel((0, 0)), found.reference) == ((2, 0, 0), "a caption")


def test_a_class_that_was_not_labelled_is_none(tmp_path):
    by_datasets(tmp_path, [{**rows(1)[0], "label": -1}, {**rows(1)[0], "label": None}])
    assert [e.category for e in entries(str(tmp_path))] == [None, None]


# -- webdataset ---------------------------------------------------------------------------------------------------------------
def test_members_of_a_shard(tmp_path):
    tar(tmp_path / "a.tar", {
        "./1.depth.png": flat(9), "./1.jpg": flat(1), "./1.caption": "\ufeffa caption\n".encode(), "./1.cls": b"3",
        "2.PNG": flat(2), "2.json": json.dumps({"question": "Red?", "captions": ["one", "two"], "category": "car"}).encode(),
        "2.cls": b"4", "3.json": b"{}", "._1.jpg": b"not for us", "ü 图.webp": flat(3), "README": b"",
    })  # fmt: skip
    found = {s.id: (s.picture.getpixel((0, 0)), s.prompt, s.reference, s.category) for s in load_samples(str(tmp_path), 3)}
    assert found == {
        "a.tar/1": ((1, 0, 0), None, "a caption", "3"), "a.tar/2": ((2, 0, 0), "Red?", "one", "car"),
        "a.tar/ü 图": ((3, 0, 0), None, None, None),
    }  # fmt: skip


def test_an_archive_beside_its_images_changes_nothing(tmp_path):
    (tmp_path / "a.png").write_bytes(flat())
    tar(tmp_path / "all.tar", {"b.png": flat()})
    by_pyarrow(tmp_path, rows(1))
    assert [e.id for e in entries(str(tmp_path))] == ["a.png"]
    assert [e.id for e in entries(str(tmp_path / "all.tar"))] == ["all.tar/b"]


# -- what is wrong with them --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf:name", r"expected hf:OWNER/NAME\[/CONFIG\]\[@REVISION\]\[:SPLIT\]"), ("hf:owner/name@:train", "expected hf:OWNER"),
        ("owner/name", "owner/name is not a folder; .*a data set of the Hugging Face hub is hf:owner/name"),
        ("gone.parquet", r"gone\.parquet is not a file"), ("gone.tar", r"gone\.tar is not a file"),
        ("bad.parquet", r"bad\.parquet cannot be loaded"), ("bad.tar", r"bad\.tar cannot be read as a tar file"),
        ("cut.tar", r"cut\.tar cannot be read as a tar file"), ("texts.tar", r"texts\.tar has no image; expected KEY\.jpg"),
        ("json.tar", r"json\.tar: a\.json is not JSON"), ("list.tar", r"expected an object in a\.json"),
        ("latin.tar", r"a\.txt is no text"), ("texts.parquet", r"has no column of images; .* it has text, url"),
        ("empty.parquet", r"empty\.parquet has no rows"), ("saved", "saved cannot be loaded"),
    ],
)  # fmt: skip
def test_bad_sources_are_one_line(tmp_path, monkeypatch, source, says):
    monkeypatch.chdir(tmp_path)
    Path("bad.parquet").write_text("no")
    Path("bad.tar").write_text("no")
    whole = tar(Path("cut.tar"), {"a.png": flat(), "b.png": b"x" * 5000}).read_bytes()
    Path("cut.tar").write_bytes(whole[:3000])
    tar(Path("texts.tar"), {"a.txt": b"x"})
    tar(Path("json.tar"), {"a.png": flat(), "a.json": b"{"})
    tar(Path("list.tar"), {"a.png": flat(), "a.json": b"[]"})
    tar(Path("latin.tar"), {"a.png": flat(), "a.txt": "ü".encode("latin-1")})
    pq.write_table(pa.table({"text": ["a"], "url": ["b"]}), "texts.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), "empty.parquet")
    Path("saved").mkdir()
    Path("saved/dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=says) as error:
        load_samples(source, 1)
    assert "\n" not in str(error.value)


def test_without_the_extra(tmp_path, monkeypatch):
    for name, kind in KINDS.items():
        (tmp_path / name).mkdir()
        kind(tmp_path / name, rows(2))
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("hf:owner/name:train", *(str(tmp_path / name) for name in ("datasets", "pyarrow", "saved"))):
        with pytest.raises(DataError, match=r"which is not installed: pip install 'lesion\[data\]'"):
            load_samples(source, 1)
    assert len(load_samples(str(tmp_path / "tar"), 2)) == 2  # tar files need nothing but Python
