"""Data sets of the hub, by a stub: the hub itself is not asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from lesion.core.errors import DataError
from lesion.data.samples import load_samples
from tests.dataset_files import rows, table


@pytest.mark.parametrize(
    ("source", "name", "config", "revision", "split"),
    [
        ("hf:owner/name:train", "owner/name", None, None, "train"),
        ("hf:o-1/n.a_me@v1.0:test", "o-1/n.a_me", None, "v1.0", "test"),
        ("hf:owner/name/some-config@refs/pr/1:train[:2]", "owner/name", "some-config", "refs/pr/1", "train[:2]"),
        ("hf:owner/name@v1", "owner/name", None, "v1", "only"),
    ],
)  # fmt: skip
def test_a_hub_id(monkeypatch, source, name, config, revision, split):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **how: asked.append((names, how)) or table(rows(2)))
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *names, **how: asked.append((names, how)) or ["only"])
    found = sorted(load_samples(source, 2), key=lambda s: s.id)
    assert [(s.id, s.reference, s.category) for s in found] == [
        (f"{split}/0", "thing 0 ü", "car"), (f"{split}/1", "thing 1 ü", "größe 图"),
    ]  # fmt: skip
    assert asked[-1] == ((name, config), {"revision": revision, "split": split})
    assert asked[:-1] == ([((name, config), {"revision": revision})] if split == "only" else [])


def test_a_hub_id_of_several_splits_says_which(monkeypatch):
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("nothing is fetched before the split is known"))
    with pytest.raises(DataError, match="has the splits train, test; name one: hf:owner/name:train"):
        load_samples("hf:owner/name", 1)


@pytest.mark.parametrize(
    "error",
    [
        DatasetNotFoundError("it does not exist\nor is private"), DatasetGenerationError("it does not exist"),
        OSError("it does not exist"), ValueError("it does not exist. Should be one of ['train']"),
    ],
)  # fmt: skip
def test_what_the_hub_says_is_one_line(monkeypatch, error):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"hf:owner/name:x cannot be loaded: it does not exist") as raised:
        load_samples("hf:owner/name:x", 1)
    assert "\n" not in str(raised.value)


def test_names_of_files_in_a_hub_table_are_no_images(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict({"image": ["a.png"]}))
    with pytest.raises(DataError, match=r"has no column of images; .* it has image$"):
        load_samples("hf:owner/name:train", 1)


@pytest.mark.parametrize("source", ["hf:owner/not-in-the-cache:train", "hf:owner/not-in-the-cache"])
def test_offline_is_respected(source):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(DataError, match=r"cannot be loaded: Couldn't reach .* \(OfflineModeIsEnabled\)"):
        load_samples(source, 1)


def test_a_local_folder_is_not_taken_for_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owner/name").mkdir(parents=True)
    with pytest.raises(DataError, match="there is a local owner/name, which hides the hub's"):
        load_samples("hf:owner/name:train", 1)
