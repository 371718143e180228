"""Samples from folders, good and bad; the embedded scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lesion.core.errors import DataError
from lesion.data.samples import SCENES, digest, halves, load_categories, load_samples
from lesion.zoo import captions, scenes
from lesion.zoo.drawing import draw


def picture(path: Path, colour: Any = "red", size: tuple[int, int] = (20, 10), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_a_subfolder_is_a_category(tmp_path):
    for i in range(3):
        picture(tmp_path / "car" / f"{i}.png")
    picture(tmp_path / "dog" / "ü 1.jpg")
    picture(tmp_path / "plain.png", 255, mode="L")
    (tmp_path / "notes.txt").write_text("not an image")
    found = {s.id: s for s in load_samples(str(tmp_path), 10)}
    assert {i: s.category for i, s in found.items()} == {
        "car/0.png": "car", "car/1.png": "car", "car/2.png": "car", "dog/ü 1.jpg": "dog", "plain.png": None,
    }  # fmt: skip
    assert {s.picture.mode for s in found.values()} == {"RGB"}


def test_the_same_seed_chooses_the_same_samples(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i}.png", (i, i, i))
    one, two, other = (load_samples(str(tmp_path), 5, seed) for seed in (1, 1, 2))
    assert digest(one) == digest(two) != digest(other)


def test_a_corrupt_image_is_named_and_skipped_or_stops(tmp_path):
    picture(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    said = []
    assert [s.id for s in load_samples(str(tmp_path), 2, warn=said.append)] == ["good.png"]
    assert len(said) == 2 and "bad.png cannot be read as an image" in said[0] and "has 1 readable images" in said[1]
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        load_samples(str(tmp_path), 2, strict=True)


def test_folders_without_images(tmp_path):
    with pytest.raises(DataError, match="has no image; expected files ending in"):
        load_samples(str(tmp_path), 2)
    with pytest.raises(DataError, match="is not a folder"):
        load_samples(str(tmp_path / "nowhere"), 2)
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(DataError, match="none of the 1 images"):
        load_samples(str(tmp_path), 2)


def test_training_and_held_out_seeds_never_meet():
    assert not set(scenes.TRAIN_SEEDS[::1000]) & set(scenes.HELD_OUT_SEEDS[::1000])
    assert scenes.TRAIN_SEEDS.stop <= scenes.HELD_OUT_SEEDS.start
    assert all(s.seed in scenes.HELD_OUT_SEEDS for s in scenes.held_out(50, seed=999))
    with pytest.raises(ValueError, match="seeds 0 to 999"):
        scenes.held_out(5, seed=1000)


def test_scenes_are_what_the_captions_say():
    seen = {"words": set(), "layouts": set(), "backgrounds": set(), "pictures": set()}
    for scene in scenes.held_out(400):
        assert scene == scenes.Scene.from_seed(scene.seed)
        text = captions.caption(scene)
        words = [w for w in text.split() if w.isalpha()]
        assert 8 <= len(words) <= 25, text
        assert captions.first_named(text) == (scene.main.colour, scene.main.category)
        assert all(captions.noun_phrase(t) in text for t in scene.things)
        answers = [a for _, a in captions.questions(scene)]
        assert answers.count("yes") == answers.count("no") == len(scene.things)
        for thing in scene.things:
            assert all(0 <= edge <= scenes.SIDE for edge in thing.box)
        seen["words"] |= set(words)
        seen["layouts"].add(scene.layout)
        seen["backgrounds"].add(scene.background)
        seen["pictures"].add(draw(scene).tobytes())
    assert len(seen["pictures"]) == 400
    assert seen["layouts"] == set(scenes.LAYOUTS) and seen["backgrounds"] == set(scenes.BACKGROUNDS)
    assert seen["words"] >= {*scenes.CATEGORIES, *scenes.COLOURS, *scenes.SIZES}


def test_a_category_can_be_asked_for():
    assert {s.main.category for s in scenes.held_out(20, category="dog")} == {"dog"}
    assert draw(scenes.held_out(1)[0]).size == (scenes.SIDE, scenes.SIDE)


def test_every_category_of_a_folder(tmp_path):
    for name, count in {"car": 3, "dog": 1, "empty": 0}.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            picture(tmp_path / name / "deep" / f"{i}.png", (i, 0, 0))
    picture(tmp_path / "plain.png")
    said = []
    found = load_categories(str(tmp_path), 2, warn=said.append)
    assert {name: len(members) for name, members in found.items()} == {"car": 2, "dog": 1}
    assert len(said) == 1 and "dog" in said[0]
    whole = {s.id: s for s in load_samples(str(tmp_path), 10, warn=said.append)}
    for name, members in found.items():
        for sample in members:
            assert sample.category == name and sample.digest == whole[sample.id].digest
    assert load_categories(str(tmp_path / "car" / "deep"), 2) == {}


def test_every_category_of_the_scenes():
    found = load_categories(SCENES, 3, seed=2)
    assert tuple(found) == scenes.CATEGORIES
    assert all(s.category == name and s.id.endswith(name) for name, members in found.items() for s in members)
    assert len({s.id for members in found.values() for s in members}) == 3 * len(scenes.CATEGORIES)


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0)), (4, (2, 2)), (5, (3, 2))])
def test_halves_do_not_meet(count, sizes):
    one, other = halves(load_samples(SCENES, count))
    assert (len(one), len(other)) == sizes and not {s.id for s in one} & {s.id for s in other}
