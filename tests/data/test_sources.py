"""Images from folders, COCO files and JSONL, of every kind that people have, and what is said of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lesion.core.errors import DataError
from lesion.data.samples import load_categories, load_samples
from lesion.study.study import Study
from tests import tiny_models


def picture(path: Path, colour: object = "red", size: tuple[int, int] = (20, 10), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # pyright: ignore[reportArgumentType]
    return path


def only(folder: Path):
    (sample,) = load_samples(str(folder), 1)
    return sample


# -- kinds of image ---------------------------------------------------------------------------------------------------
def test_greyscale_and_sixteen_bits_keep_their_brightness(tmp_path):
    picture(tmp_path / "grey" / "a.png", 100, mode="L")
    values = np.linspace(0, 65535, 256 * 4).round().astype(np.uint16).reshape(32, 32)
    (tmp_path / "deep").mkdir()
    Image.fromarray(values).save(tmp_path / "deep" / "b.png")
    assert only(tmp_path / "grey").picture.getpixel((0, 0)) == (100, 100, 100)
    deep = np.asarray(only(tmp_path / "deep").picture)
    assert deep.shape == (32, 32, 3) and deep[0, 0, 0] == 0 and deep[-1, -1, 0] == 255
    np.testing.assert_allclose(deep[..., 0], values / 257, atol=0.51)


def test_float_and_32_bit_files_use_their_own_range(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5], [1.0, 2.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(only(tmp_path).picture)[..., 0].tolist() == [[0, 64], [128, 255]]


def test_what_is_transparent_is_white(tmp_path):
    picture(tmp_path / "rgba" / "a.png", (255, 0, 0, 0), mode="RGBA")
    picture(tmp_path / "half" / "a.png", (0, 0, 0, 128), mode="RGBA")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0] + [0] * 762)
    (tmp_path / "palette").mkdir()
    palette.save(tmp_path / "palette" / "a.png", transparency=1)
    assert only(tmp_path / "rgba").picture.getpixel((0, 0)) == (255, 255, 255)
    assert only(tmp_path / "half").picture.getpixel((0, 0)) == (127, 127, 127)
    assert only(tmp_path / "palette").picture.getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_is_what_it_looks_like(tmp_path):
    picture(tmp_path / "a.jpg", (0, 255, 255, 0), (32, 32), mode="CMYK")
    red, green, blue = np.asarray(only(tmp_path).picture)[16, 16]
    assert red > 200 and green < 60 and blue < 60


def test_a_camera_held_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it
    image = Image.new("RGB", (20, 10), "blue")
    image.putpixel((0, 0), (255, 255, 255))
    image.save(tmp_path / "a.png", exif=exif)
    seen = only(tmp_path).picture
    assert seen.size == (10, 20) and seen.getpixel((9, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (6000, 4000)])
def test_tiny_long_and_large_ones_go_through_a_model(tmp_path, size):
    picture(tmp_path / "ü bild 图.png", "green", size)
    sample = only(tmp_path)
    assert sample.picture.size == size and sample.id == "ü bild 图.png"
    for build in tiny_models.BUILDERS.values():
        vlm = build()
        (answer,) = vlm.generate(vlm.embed([vlm.prompt(sample, "What do you see?")]), 2)
        assert answer.ids


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file_is_skipped_with_a_line_or_stops(tmp_path, damage):
    good, bad = picture(tmp_path / "good.png"), tmp_path / "bad.png"
    whole = picture(tmp_path / "whole.png", size=(200, 200)).read_bytes()
    (tmp_path / "whole.png").unlink()
    bad.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no image"}[damage])
    said: list[str] = []
    assert [s.id for s in load_samples(str(tmp_path), 2, warn=said.append)] == [good.name]
    assert any("bad.png cannot be read as an image" in line and line.endswith("skipped") for line in said)
    with pytest.raises(DataError, match=r"bad\.png cannot be read.*--strict"):
        load_samples(str(tmp_path), 2, strict=True)


# -- what is said of them ---------------------------------------------------------------------------------------------
def test_a_folder_with_metadata(tmp_path):
    for name in ("a.png", "b.png", "car/c.png"):
        picture(tmp_path / name)
    rows = [{"file_name": "a.png", "text": "a red thing", "label": "thing"}, {"file_name": "car/c.png", "caption": "a car"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    found = {s.id: (s.category, s.reference) for s in load_samples(str(tmp_path), 3)}
    assert found == {"a.png": ("thing", "a red thing"), "b.png": (None, None), "car/c.png": ("car", "a car")}
    assert set(load_categories(str(tmp_path), 2)) == {"thing", "car"}


@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_folder_with_captions(tmp_path, separator):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    text = separator.join(["image", "caption"]) + "\n" + "".join(
        separator.join(row) + "\n" for row in [("a.png#0", "one, two"), ("a.png#1", "other"), ("b.png", "three")]
    )
    (tmp_path / "captions.txt").write_text("\ufeff" + text, encoding="utf-8")
    assert {s.id: s.reference for s in load_samples(str(tmp_path), 2)} == {"a.png": "one, two", "b.png": "three"}


def test_a_line_an_image(tmp_path):
    picture(tmp_path / "pics" / "a.png")
    absolute = picture(tmp_path / "elsewhere" / "b.png")
    rows = [
        {"image": "pics/a.png", "prompt": "Is it red?", "answer": "yes", "category": "car"}, {"image": str(absolute)},
        {"image": "pics/a.png", "prompt": "What is it?"},
    ]  # fmt: skip
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = {s.id: s for s in load_samples(str(file), 3)}
    assert set(found) == {"1:pics/a.png", "2:b.png", "3:pics/a.png"}
    first = found["1:pics/a.png"]
    assert (first.prompt, first.reference, first.category) == ("Is it red?", "yes", "car")
    assert first.digest != found["3:pics/a.png"].digest
    vlm = tiny_models.llava()
    own, other = (vlm.prompt(found[i], "Default?").inputs["input_ids"] for i in ("1:pics/a.png", "2:b.png"))
    assert own.tolist() == vlm.prompt(found["2:b.png"], "Is it red?").inputs["input_ids"].tolist() != other.tolist()


def coco(folder: Path, captions: bool = True) -> str:
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        picture(folder / "images" / name)
    instances = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in (3, 1, 2)],
        "categories": [{"id": 7, "name": "car"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "area": 10.0}, {"image_id": 1, "category_id": 9, "area": 30.0},
            {"image_id": 2, "category_id": 7, "bbox": [0, 0, 5, 5]},
        ],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(instances))
    said = [(1, " a dog by a car "), (1, "second"), (2, "x")]
    rows = [{"image_id": image, "caption": caption} for image, caption in said]
    (folder / "captions.json").write_text(json.dumps({"annotations": rows}))
    return f"coco:{folder / 'images'}:{folder / 'instances.json'}" + (f":{folder / 'captions.json'}" if captions else "")


def test_coco(tmp_path):
    source = coco(tmp_path)
    found = {s.id: (s.category, s.reference) for s in load_samples(source, 3)}
    assert found == {"1.jpg": ("dog", "a dog by a car"), "2.jpg": ("car", "x"), "3.jpg": (None, None)}
    assert {s.id: s.category for s in load_samples(source, 3, category="car")} == {"1.jpg": "car", "2.jpg": "car"}
    assert {s.reference for s in load_samples(coco(tmp_path, captions=False), 3)} == {None}
    assert {name: len(members) for name, members in load_categories(source, 5).items()} == {"car": 1, "dog": 1}


def test_a_study_of_one_category(tmp_path):
    asked = {"samples": 2, "clip": "none", "max_new_tokens": 4, "max_k": 1, "controls": 0, "target": "reference"}
    found = Study(tiny_models.llava(), tmp_path / "run", data=coco(tmp_path), category="car", **asked).run()
    about = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    assert found.samples == 2 and {*about["ranked_on"], *about["measured_on"]} == {"1.jpg", "2.jpg"}
    scenes = load_samples("scenes", 3, category="dog")
    assert {s.category for s in scenes} == {"dog"}


# -- what is wrong with them --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "category", "says"),
    [
        ("nowhere", None, "nowhere is not a folder"), ("nowhere.jsonl", None, r"nowhere\.jsonl cannot be read"),
        ("coco:images", None, "expected coco:IMAGES_DIR:instances.json"),
        ("coco:nowhere:i.json", None, "nowhere is not a folder"),
        ("coco:images:nowhere.json", None, r"nowhere\.json cannot be read"),
        ("coco:images:list.json", None, "no list 'images'"),
        ("coco:images:broken.json", None, r"broken\.json is not JSON"), ("broken.jsonl", None, "line 2 is not JSON"),
        ("nameless.jsonl", None, "line 1: expected an object with 'image'"), ("empty.jsonl", None, "has no line"),
        ("images", "cat", "no image of category 'cat'; it has no categories"), ("scenes", "cow", "no category 'cow'"),
        ("captions", None, r"captions\.txt, line 1: expected a file name"),
    ],
)  # fmt: skip
def test_bad_sources_are_one_line(tmp_path, monkeypatch, source, category, says):
    monkeypatch.chdir(tmp_path)
    picture(Path("images/a.png"))
    picture(Path("captions/a.png"))
    Path("captions/captions.txt").write_text("a.png")
    Path("list.json").write_text("[]")
    Path("broken.json").write_text("{")
    Path("broken.jsonl").write_text('{"image": "images/a.png"}\n{')
    Path("nameless.jsonl").write_text('{"picture": "a.png"}')
    Path("empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=says) as error:
        load_samples(source, 1, category=category)
    assert "\n" not in str(error.value)
