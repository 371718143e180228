"""``lesion certify``: every neuron is masked, an independent script checks what is said, and what was killed goes on."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lesion import Study
from lesion.cli.app import app
from lesion.core.errors import OptionError, RunError
from lesion.core.journal import Journal
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.certificate import FILE
from lesion.study.certify import Certified, certify

OPTIONS: dict[str, Any] = {
    "data": "questions", "role": "down", "samples": 4, "controls": 0, "max_new_tokens": 2, "clip": "none", "layers": "1",
    "criterion": "perplexity",
}  # fmt: skip
runner = CliRunner()


def check(file: Path, hook: Any) -> tuple[int, list[tuple[str, int]]]:
    """Checks a certificate without a line of lesion: that every neuron is there once, and which collapse the model alone.

    Args:
        file: The certificate, of a criterion that is a perplexity ten times the intact one.
        hook: Masks one neuron by hand and gives each sample's mean NLL, for those that are measured again.

    Returns:
        How many single neurons there are, and the site and index of those that collapse the model.
    """
    head, *lines = map(json.loads, file.read_text().splitlines())
    tokens, sites = head["tokens"], head["sites"]
    assert head["criterion"]["conditions"] == [{"metric": "ppl_reference", "test": "decades", "limit": 1.0, "chance": None}]
    nll: dict[tuple[int, int], list[float | None]] = {}
    for line in lines:
        for i, values in enumerate(line["nll"] if "site" in line else []):
            assert (line["site"], line["first"] + i) not in nll and len(values) == len(tokens)
            nll[line["site"], line["first"] + i] = values
    assert set(nll) == {(s, i) for s, site in enumerate(sites) for i in range(site["width"])}

    def mean(values: list[float | None]) -> float:
        return sum((math.inf if v is None else v) * n for v, n in zip(values, tokens, strict=True)) / sum(tokens)

    limit = mean(head["intact"]) + math.log(10)
    fallen = [(sites[s]["path"], i) for (s, i), values in nll.items() if mean(values) >= limit]
    said = [s for line in lines if "sets" in line for s, c in zip(line["sets"], line["collapsed"], strict=True) if c]
    assert sorted((sites[s]["path"], i) for [[s, i]] in said) == sorted(fallen)
    for place in [*sorted(nll, key=lambda p: mean(nll[p]))[-3:], *list(nll)[:: len(nll) // 5]]:
        again = hook(sites[place[0]]["path"], place[1])
        for a, b in zip(again, nll[place], strict=True):
            assert b is not None and math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)
    return len(nll), fallen


def by_hand(vlm: VisionLanguageModel, run: Path) -> Any:
    """Masks an output channel with a hook of plain PyTorch."""
    from lesion.data.samples import load_samples

    answers = json.loads((run / rundir.ANSWERS).read_text())["answers"]
    ids = json.loads((run / FILE).read_text().splitlines()[0])["samples"]
    samples = {s.id: s for s in load_samples("questions", 4)}

    def hook(path: str, index: int) -> list[float]:
        def zero(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            return torch.cat([output[..., :index], torch.zeros_like(output[..., :1]), output[..., index + 1 :]], -1)

        handle, means = vlm.model.get_submodule(path).register_forward_hook(zero), []
        try:
            for name in ids:
                inputs = vlm.prompt(samples[name]).inputs
                said = torch.tensor([answers[name]["ids"]])
                whole = torch.cat([inputs["input_ids"], said], 1)
                with torch.no_grad():
                    texts = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
                    logits = vlm.model(**texts, pixel_values=inputs["pixel_values"]).logits[:, -said.shape[1] - 1 : -1].float()
                means.append(float(torch.nn.functional.cross_entropy(logits[0], said[0])))
        finally:
            handle.remove()
        return means

    return hook


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")


@pytest.fixture(scope="module")
def run(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("certify") / "run"
    Study(vlm, out=out, **OPTIONS).run()
    return out


@pytest.fixture(scope="module")
def whole(vlm: VisionLanguageModel, run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Certified]:
    folder = Path(shutil.copytree(run, tmp_path_factory.mktemp("certified") / "run"))
    certified = certify(folder, pairs=5, model=vlm)
    assert certified is not None
    return folder, certified


def test_an_independent_script_agrees(vlm, whole):
    folder, certified = whole
    count, fallen = check(folder / FILE, by_hand(vlm, folder))
    assert count == certified.singles == certified.total == 192
    assert len(fallen) == certified.singles_collapsed and certified.singles_undecided == 0


def test_the_claim_is_what_was_measured(whole):
    _, certified = whole
    assert certified.pairs == 10 and certified.within == 5
    assert certified.at_least == (1 if certified.singles_collapsed else 2)
    assert str(certified).startswith(
        "None of 192 language down neurons collapses tiny-llava alone: all were measured, on 2 samples. The smallest set that "
        "does has at least two on this data. Of the 10 pairs of the 5 most harmful ones, "
    )


def test_pairs_are_those_of_the_most_harmful(whole):
    folder, certified = whole
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()[1:]]
    pairs = [pair for line in lines for pair in line.get("pairs", [])]
    singles = [(n.layer, n.index) for e in certified.worst if len(e.neurons) == 1 for n in e.neurons][:5]
    assert len(pairs) == 10 and {index for pair in pairs for _, index in pair} == {index for _, index in singles}
    rises = [e.rise for e in certified.worst]
    assert rises == sorted(rises, reverse=True)


def test_nothing_is_measured_twice(vlm, whole):
    folder, certified = whole
    before = (folder / FILE).read_bytes()
    again = certify(folder, pairs=5, model=vlm)
    assert again is not None and (folder / FILE).read_bytes() == before
    assert again.model_copy(update={"seconds": 0}) == certified.model_copy(update={"seconds": 0})


def test_a_process_that_was_killed_goes_on(vlm, run, whole, tmp_path):
    """Killed between two lines, and its last line cut, it ends with the same measurements."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    process = subprocess.Popen([sys.executable, "-m", "lesion.cli", "certify", str(folder)], stderr=subprocess.DEVNULL)
    file, end = folder / FILE, time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") >= 3) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = file.read_bytes().count(b"\n")
    assert lines >= 3
    os.truncate(file, file.stat().st_size - 7)
    certified = certify(folder, model=vlm)
    assert certified is not None and certified.singles == certified.total
    assert check(file, by_hand(vlm, folder))[0] == 192


def test_the_estimate_comes_first_and_may_be_all(run, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    said = runner.invoke(app, ["certify", str(folder), "--estimate"])
    assert said.exit_code == 0 and "192 masks on 2 samples: about " in said.output
    assert (folder / FILE).read_text().count("\n") == 1


def test_the_terminal_shows_the_claim_and_json_has_it(whole):
    folder, certified = whole
    shown = runner.invoke(app, ["certify", str(folder), "--pairs", "5"])
    assert shown.exit_code == 0 and "collapses tiny-llava alone" in " ".join(shown.output.split())
    data = runner.invoke(app, ["certify", str(folder), "--pairs", "5", "--json"])
    assert json.loads(data.stdout)["worst"] == certified.model_dump(mode="json")["worst"]


def test_what_is_wrong_is_said(vlm, run, whole, tmp_path):
    with pytest.raises(RunError, match="holds no study"):
        certify(tmp_path, model=vlm)
    with pytest.raises(OptionError, match="pairs is 1"):
        certify(run, pairs=1, model=vlm)
    folder = Path(shutil.copytree(whole[0], tmp_path / "damaged"))
    journal = Journal(folder / FILE)
    [head, *_] = journal.read()
    for lines, message in (
        ([{"format": 1}], "about another model, data or criterion"), ([head, {"site": 0}], "is damaged; delete it"),
    ):  # fmt: skip
        (folder / FILE).unlink()
        journal.append(lines)
        with pytest.raises(RunError, match=message):
            certify(folder, model=vlm)
    other: dict[str, Any] = OPTIONS | {"criterion": "degeneration"}
    Study(vlm, out=tmp_path / "task", **other).run()
    with pytest.raises(OptionError, match="does not look at the perplexity"):
        certify(tmp_path / "task", model=vlm)
