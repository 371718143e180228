"""The command line: what it prints, how it fails, and how fast it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from lesion.cli.app import app
from tests import tiny_models

runner = CliRunner()


def fails(*arguments):
    """Runs a command that must fail with exit code 2 and one line; returns the line."""
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("warning:", "["))]
    assert len(lines) == 1 and lines[0].startswith("lesion: "), result.stderr
    return lines[0]


def test_sites_table_and_json():
    result = runner.invoke(app, ["sites", "tiny-llava"])
    assert result.exit_code == 0 and "language" in result.stdout and "unreachable:" in result.stdout
    rows = json.loads(runner.invoke(app, ["sites", "tiny-llava", "--json"]).stdout)
    gate = next(r for r in rows if (r["component"], r["role"]) == ("language", "gate"))
    assert gate["neurons"] == gate["reachable"] == gate["layers"] * gate["widths"][0]
    vision = next(r for r in rows if (r["component"], r["role"]) == ("vision", "hidden"))
    assert vision["reachable"] < vision["neurons"]


def test_no_such_model(tmp_path):
    assert "no model './nowhere'" in fails("sites", "./nowhere")
    assert "no model 'llava'" in fails("study", "llava", "--out", tmp_path / "run")
    assert "cannot be loaded" in fails("study", "nobody/nothing", "--out", tmp_path / "run")
    assert "has no config.json" in fails("study", tmp_path, "--out", tmp_path / "run")
    assert "'clip' is not supported" in fails("study", "tiny-clip", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_with_feed_forward_networks_of_an_unknown_make(tmp_path, monkeypatch):
    monkeypatch.setattr("lesion.models.feedforward.NAMES", ())
    line = fails("study", "tiny-llava", "--out", tmp_path / "run")
    assert "layers.0.mlp (CLIPMLP) looks like a feed-forward network" in line and "adding-a-family.md" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "1.5"], "alpha is 1.5; expected a number from 0 to 1"),
        (["--max-k", "1000000"], "max_k is 1000000; there are"),
        (["--component", "qformer"], "component 'qformer' is not in this model; available: vision, connector, language"),
        (["--component", "vision", "--role", "gate"], "role 'gate' is not in component 'vision'; available there: hidden"),
        (["--role", "gates"], "role 'gates'"),
        (["--samples", "0"], "samples is 0"),
        (["--clip", "./no-clip"], "no model './no-clip'"),
        (["--clip", "tiny-llava"], "the CLIP model 'tiny-llava' cannot be loaded"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--dtype", "int3"], "dtype 'int3' is unknown"),
    ],
)
def test_bad_options(tmp_path, options, message):
    assert message in fails("study", "tiny-llava", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no image" in fails("study", "--data", tmp_path / "empty", "--out", tmp_path / "run")
    good = tmp_path / "mixed"
    good.mkdir()
    for i in range(3):
        Image.new("RGB", (30, 30), (80 * i, 0, 0)).save(good / f"{i}.png")
    (good / "bad.jpg").write_bytes(b"broken")
    assert "bad.jpg cannot be read" in fails("study", "--data", good, "--strict", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    words = ["study", "--data", good, "--samples", 4, "--max-k", 1, "--controls", 0, "--max-new-tokens", 4, "--clip", "none",
             "--out", tmp_path / "run", "--json"]  # fmt: skip
    result = runner.invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert "bad.jpg cannot be read as an image" in result.stderr and "skipped" in result.stderr
    assert json.loads(result.stdout)["samples"] == 3


def test_an_output_folder_with_something_else(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert "holds no study" in fails("study", "--out", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_summary(tmp_path):
    arguments = ["study", "--samples", "16", "--controls", "1", "--out", str(tmp_path / "run")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for part in ("intact", "stage 1", "k* =", "critical neurons by layer: language layer 1", "minimal set", "controls"):
        assert part in result.stdout
    again = runner.invoke(app, arguments)
    assert again.stdout == result.stdout


def test_known_coordinates_are_masked(tmp_path):
    arguments = ["check-known", "--samples", "4", "--out", str(tmp_path / "run")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for part in ("known coordinates of tiny-llava", "seeded on purpose", "(intact)", "hidden", "down", "layer 1 down[74]"):
        assert part in result.stdout
    rows = json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)["rows"]
    assert [row["role"] for row in rows] == ["hidden", "down"]


def test_known_coordinates_of_an_unknown_model():
    assert "nothing is known of tiny-instructblip" in fails("check-known", "tiny-instructblip", "--samples", "2")
    assert "nothing is known of 'gpt-9'; known: tiny-llava" in fails("check-known", "--expect", "gpt-9")


def test_paper_on_a_model_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    vlm, data = tiny_models.llava(), tmp_path / "data"
    for part in (vlm.model, vlm.processor):
        part.save_pretrained(tmp_path / "model")
    for sample in tiny_models.samples(4):
        (data / "noise").mkdir(parents=True, exist_ok=True)
        sample.picture.save(data / "noise" / f"{sample.id}.png")
    words = ["paper", tmp_path / "model", "--data", data, "--out", tmp_path / "out", "--quick", "--clip", "none",
             "--max-new-tokens", 4, "--samples", 4, "--controls", 1, "--max-k", 3]  # fmt: skip
    result = runner.invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "is open for: gate, up, hidden, down." in shown and "none up to 3" in shown
    assert "not tested" in shown and "not seen" not in shown  # 2 measured samples tell nothing of stage 1
    assert str(tmp_path / "out" / "summary.md") in result.stdout.replace("\n", "")
    assert (tmp_path / "out" / "summary.md").read_text().startswith("# Summary")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny-llava", "tiny-llava"], "each once"), (["nobody"], "no model 'nobody'"),
        (["tiny-llava", "nobody"], "no model 'nobody'"), (["--role", "gates"], "role is 'gates'"),
        (["--data", "no-such-folder"], "no-such-folder"), (["--expect", "nobody"], "nothing is known of 'nobody'"),
        (["--per-category", "1"], "per_category"), (["--alpha", "0.5"], None),
    ],
)  # fmt: skip
def test_paper_says_what_is_wrong_and_makes_nothing(tmp_path, words, message):
    if message is None:  # an option that it does not have
        assert runner.invoke(app, ["paper", *words]).exit_code == 2
    else:
        assert message in fails("paper", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", ["-c|import lesion", "-m|lesion.cli|--help", "-m|lesion.cli|study|--help"])
def test_it_starts_fast_and_without_torch(arguments):
    """In at most two and a half times what the libraries take that it cannot do without; torch alone takes more."""
    needed, own = ["-c", "import numpy, pydantic, typer, typer.rich_utils, yaml"], arguments.split("|")
    floor = used = float("inf")
    for turn in range(12):  # what else the machine does only adds to either, so that the least of each is the nearest
        floor, used = min(floor, processor_time(needed)), min(used, processor_time(own))
        if turn >= 2 and used < 2.5 * floor:
            break
    assert 0 < used < 2.5 * floor


def processor_time(arguments: list[str]) -> float:
    """Seconds of processor time, which other processes lengthen less than the time by the clock."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def test_what_is_heavy_is_imported_inside_the_commands():
    code = "import sys, lesion, lesion.cli.app; print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    import lesion

    assert all(getattr(lesion, name) is not None for name in lesion.__all__)
    assert set(lesion.__all__) <= set(dir(lesion))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lesion.nonsense
