"""What a file says of other files cannot leave the file's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lesion.core.errors import DataError, NeuronSetError, RunError
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site, Sites
from lesion.data.samples import load_samples
from lesion.data.sources import entries
from lesion.data.sources.inside import kept, named
from lesion.report.html import Run, report, write_report
from lesion.study.options import StudyOptions
from lesion.study.result import Result
from lesion.study.rundir import default_folder, slug
from tests import results
from tests.dataset_files import flat, tar
from tests.results import save

ESCAPES = ("../secret.png", "pics/../../secret.png", "{secret}", "./../secret.png", "pics/./../../secret.png")
"""Ways out of a folder; {secret} is the absolute path."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture that lies beside the folder of the data, and is nobody's business."""
    path = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
    (tmp_path / "data" / "pics").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / "pics" / "a.png")
    return path


def jsonl(folder: Path, name: str) -> str:
    (folder / "asked.jsonl").write_text(json.dumps({"image": name}) + "\n")
    return str(folder / "asked.jsonl")


def coco(folder: Path, name: str) -> str:
    data = {"images": [{"id": 1, "file_name": name}], "annotations": [], "categories": []}
    (folder / "instances.json").write_text(json.dumps(data))
    return f"coco:{folder}:{folder / 'instances.json'}"


def table(folder: Path, name: str) -> str:
    pq.write_table(pa.table({"file_name": [name]}), folder / "table.parquet")
    return str(folder / "table.parquet")


def struct(folder: Path, name: str) -> str:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": name}], kind)}), folder / "table.parquet")
    return str(folder / "table.parquet")


KINDS: tuple[Callable[[Path, str], str], ...] = (jsonl, coco, table, struct)


def colours(source: str) -> list[tuple[int, ...]]:
    """The first pixel of each picture that is read; none where all are refused."""
    try:
        found = load_samples(source, 4)
    except DataError:
        return []
    return [sample.picture.getpixel((0, 0)) for sample in found]  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_inside_is_read(secret: Path, kind: Callable[[Path, str], str]):
    folder = secret.parent / "data"
    for name in ("pics/a.png", "./pics/a.png", str(folder / "pics" / "a.png")):
        assert colours(kind(folder, name)) == [(255, 0, 0)], name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ESCAPES)
def test_a_picture_outside_is_not(secret: Path, kind: Callable[[Path, str], str], name: str):
    assert colours(kind(secret.parent / "data", name.format(secret=secret))) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", ["a file", "a folder"])
def test_a_link_leads_nowhere_else(secret: Path, kind: Callable[[Path, str], str], through: str):
    folder = secret.parent / "data"
    (folder / "link").symlink_to(secret if through == "a file" else secret.parent)
    name = "link" if through == "a file" else "link/secret.png"
    assert (folder / name).read_bytes() == secret.read_bytes()
    assert colours(kind(folder, name)) == []


def test_a_line_that_names_another_place_is_named(secret: Path):
    says = r"asked\.jsonl, line 1: '\.\./secret\.png' is not below .*data; put the file above its images"
    with pytest.raises(DataError, match=says):
        entries(jsonl(secret.parent / "data", "../secret.png"))
    with pytest.raises(DataError, match=r"a link leads out of its folder.*--strict"):
        (secret.parent / "data" / "link.png").symlink_to(secret)
        load_samples(jsonl(secret.parent / "data", "link.png"), 1, strict=True)


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path, secret: Path):
    """There, every file is a link to a folder beside the snapshot."""
    blob, snapshot = tmp_path / "hub" / "blobs" / "0123", tmp_path / "hub" / "snapshots" / "main" / "train"
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_bytes(flat(9))
    (snapshot / "a.png").symlink_to(os.path.relpath(blob, snapshot))
    assert colours(jsonl(snapshot, "a.png")) == [(9, 0, 0)]
    (snapshot / "b.png").symlink_to(secret)
    assert colours(jsonl(snapshot, "b.png")) == []


def test_a_folder_that_you_name_is_read_as_it_is(secret: Path):
    """Links in it are followed: nothing but the folder says what is in it."""
    (secret.parent / "data" / "pics" / "link.png").symlink_to(secret)
    assert sorted(colours(str(secret.parent / "data"))) == [(1, 2, 3), (255, 0, 0)]


def test_names_are_looked_at_without_the_disk(tmp_path: Path):
    assert named(tmp_path, "a/b.png") == tmp_path / "a" / "b.png" == named(tmp_path, str(tmp_path / "a" / "b.png"))
    for name in ("..", "a/../../b", "/b", f"{tmp_path}/../b", f"{tmp_path}x/b"):
        with pytest.raises(ValueError, match="is not below"):
            named(tmp_path, name)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert kept(tmp_path / "loop" / "x", [tmp_path])


def test_a_shard_is_not_unpacked(secret: Path):
    """Names in an archive are keys alone, and a link in it is no picture."""
    import io
    import tarfile

    folder = secret.parent / "data"
    archive = tar(folder / "x.tar", {"../../evil.png": flat(7), "/abs.png": flat(8)})
    with tarfile.open(archive, "a") as opened:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        opened.addfile(link, io.BytesIO())
    before = sorted(secret.parent.rglob("*"))
    assert sorted(colours(str(archive))) == [(7, 0, 0), (8, 0, 0)]
    assert sorted(secret.parent.rglob("*")) == before


# -- sets, options and run directories ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/etc/passwd", "../../x", "model/../../x", "~/x"])
def test_a_path_in_a_set_is_a_name_of_a_module(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch):
    """It is compared with the model's own, and opens nothing."""
    own = Site("model.layers.0.mlp.down_proj", "language", "down", 0, 64)
    NeuronSet.from_arrays({Site(path, "language", "down", 0, 64): np.array([1])}).save(tmp_path / "set.json")
    read = NeuronSet.load(tmp_path / "set.json")
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("a file was opened"))
    with pytest.raises(NeuronSetError, match="the model has no down site at"):
        read.fit(Sites([own]))


def test_a_config_names_no_file_of_a_criterion(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("name: x\nconditions: [{metric: kl, test: at-least, limit: 1}]\n")
    assert StudyOptions.parse(criterion=str(tmp_path / "c.yaml")).rule().name == "x"
    with pytest.raises(RunError, match="the criterion by its name or as data"):
        StudyOptions.from_yaml(f"criterion: {tmp_path / 'c.yaml'}\n", "config.yaml")


@pytest.mark.parametrize("model", ["../../x", "/etc/x", "a/../../b", "..", ".", "./..", "owner/name@../x", "x/" * 9 + "y"])
def test_a_run_directory_is_below_runs(model: str):
    folder = default_folder(StudyOptions.parse(model=model), "language", "gate")
    assert folder.parent == Path("runs") and ".." not in folder.parts and "/" not in slug(model)


def test_a_report_reads_and_writes_in_its_run_alone(tmp_path: Path):
    made, secret = results.result(run=str(tmp_path / "elsewhere")), tmp_path / "secret.jpg"
    Image.new("RGB", (8, 8)).save(secret)
    folder = save(made, tmp_path / "run")
    assert report([Run.load(folder)]).count("data:image/jpeg") == 7, "six cards, and the one beside the answer"
    (folder / "pictures" / "link.jpg").symlink_to(secret)
    names = ["../secret.jpg", str(secret), "pictures/../../secret.jpg", "pictures/link.jpg", "result.json", "pictures"]
    for sample, name in zip(made.sample_list, names, strict=False):
        sample.picture = name
    (folder / "result.json").write_text(made.model_dump_json())
    assert "data:image/jpeg" not in report([Run.load(folder)])
    assert write_report(Result.load(folder)) == folder / "report.html", "where the result lies, not where it says that it does"
    assert not (tmp_path / "elsewhere").exists()
