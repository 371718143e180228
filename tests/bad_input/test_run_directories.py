"""Run directories that are damaged, and commands that are given what is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.study.checksums import FILE as CHECKSUMS
from tests import results
from tests.bad_input.checker import Case, as_anybody, nothing, table

ASKED = "study model --out run --samples 4 --max-k 2 --controls 1 --max-new-tokens 4 --clip none --criterion perplexity"
NO_CLIP = ("no CLIP score",)
STARTED = ("run/manifest.json", f"run/{CHECKSUMS}", "run/.lock")
DEEP = b"[" * 100_000
READING = ("show run", "report run", "diff run run", "explain run")
"""Commands that read a result."""


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder with a model and the finished run of a study; to be copied."""
    folder, before = tmp_path_factory.mktemp("studied"), Path.cwd()
    shutil.copytree(tiny, folder / "model")
    os.chdir(folder)
    try:
        done = CliRunner().invoke(app, ASKED.split())
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    return folder


def empty(data: bytes) -> bytes:
    return b""


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def text(content: str | bytes) -> Callable[[bytes], bytes]:
    return lambda data: content.encode() if isinstance(content, str) else content


def damaged(name: str, act: Callable[[bytes], bytes], checked: bool = False) -> Callable[[Path], object]:
    """Changes a file of the run; without ``checked`` the run has no checksums, as of those that older versions wrote."""

    def make(folder: Path) -> None:
        file = folder / "run" / name
        file.write_bytes(act(file.read_bytes()))
        if not checked and name != CHECKSUMS:
            (folder / "run" / CHECKSUMS).unlink()

    return make


def gone(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / "run" / name).unlink() for name in names]


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Puts something else in the place of a file."""

    def act(folder: Path) -> None:
        (folder / "run" / name).unlink()
        make(folder / "run" / name)

    return act


def resumed(name: str, make: Callable[[Path], object], says: str, touches: tuple[str, ...] = (), **more: Any) -> Case:
    """The same study again, which goes on with what is there."""
    return Case(name, make, ASKED, says, NO_CLIP, touches=(*STARTED, *touches), loads=True, **more)


UNREAD = "run/result.json is no result that this version of lesion reads ( ... run its study again to have it made anew"
OTHER_SUM = "is damaged (its checksum is another); delete it"
BROKEN = {
    "empty": empty, "cut off": cut, "a list": text("[]"), "another object": text('{"a": 1}'), "binary": text(bytes(range(256))),
    "nested without end": text(DEEP),
}  # fmt: skip
NO_RUNS = {"nothing": nothing, "an empty folder": lambda folder: (folder / "none").mkdir()}
NO_CONFIGS = {
    "empty": "", "a list": "[]", "a word": "x", "unknown": '{"a": 1}', "of another type": "samples: many", "nested": "[" * 1000,
    "open": "a: [",
}  # fmt: skip
NO_MANIFESTS = {
    "empty": "damaged; delete it to have it made again", "cut off": "damaged; delete it to have it made again",
    "binary": "damaged; delete it to have it made again", "a list": "no manifest that this version of lesion reads; choose",
    "another object": "no manifest that this version of lesion reads; choose another --out",
}  # fmt: skip
ARTEFACTS = ("answers.json", "curve.json", "collapse.json", "minimal.json", "controls.json")
CHECKED = (*ARTEFACTS, "importance.safetensors", "blind.json", "search.json")
CASES = [
    # -- a result ------------------------------------------------------------------------------------------------------
    *(Case(f"{command}: result {name}", damaged("result.json", act), command, UNREAD)
      for command in READING for name, act in BROKEN.items()),
    *(Case(f"{command}: result changed", damaged("result.json", lambda data: data.replace(b"2", b"3", 1), True), command,
           f"run/result.json {OTHER_SUM}") for command in READING),
    Case("result is null", damaged("result.json", text("null")), "show run", UNREAD),
    Case("result of a format to come",
         damaged("result.json", lambda data: data.replace(b"lesion-result-1", b"lesion-result-9")), "show run", UNREAD),
    Case("result with a curve that is a word",
         damaged("result.json", lambda data: data.replace(b'"curve": [', b'"curve": "x", "y": [')), "show run", UNREAD),
    Case("result is a folder", instead("result.json", Path.mkdir), "show run",
         "run/result.json cannot be read (Is a directory); expected"),
    Case("result is a link to itself", instead("result.json", lambda p: p.symlink_to("result.json")), "report run",
         "symbolic links); expected"),
    # -- what is no run ------------------------------------------------------------------------------------------------
    *(Case(f"{command}: {name}", make, command, "expected the run directory of a ")
      for command in ("show none", "report none", "diff none none", "explain none", "certify none")
      for name, make in NO_RUNS.items()),
    Case("show: a folder of images", lambda f: (f / "none").mkdir() or (f / "none" / "a.png").write_bytes(b"x"), "show none",
         "none/result.json cannot be read (No such file or directory); expected the run directory of a finished study"),
    Case("show: a model", nothing, "show model",
         "model/result.json cannot be read (No such file ... expected the run directory"),
    Case("show: a file", lambda f: (f / "none").write_text("x"), "show none",
         "none is no result that this version of lesion reads"),
    Case("show: a path below a file", lambda f: (f / "none").write_text("x"), "show none/run",
         "none/run cannot be read (Not a directory)"),
    Case("report: one of two is none", nothing, "report run none",
         "none cannot be read (No such file or directory); expected the run"),
    Case("diff: the second is none", nothing, "diff run none",
         "none cannot be read (No such file or directory); expected the run"),
    Case("try: no run", nothing, "try model --run none",
         "none/critical.json: cannot be read as a set of neurons: No such file"),
    Case("try: no ranking", nothing, "try model --run none --top 3",
         "none/ranking.csv: cannot be read as a ranking: No such file"),
    Case("a run without its study", gone("config.yaml", "result.json"), "explain run",
         "expected the run directory of a finished study"),
    Case("certify without a configuration", gone("config.yaml"), "certify run",
         "run holds no study (config.yaml is missing); expected"),
    # -- other files that commands read --------------------------------------------------------------------------------
    *(Case(f"diff: the critical set {name}", damaged("critical.json", act), "diff run run", "run/critical.json: ... expected")
      for name, act in BROKEN.items()),
    Case("diff without a critical set", gone("critical.json"), "diff run run",
         "run/critical.json: cannot be read ... expected"),
    Case("try: the critical set cut off", damaged("critical.json", cut), "try model --run run",
         "run/critical.json: cannot ... expected"),
    Case("try: a ranking of nothing", damaged("ranking.csv", empty), "try model --run run --top 1", "run/ranking.csv",
         loads=True),
    # -- the configuration ---------------------------------------------------------------------------------------------
    *(Case(f"configuration {name}", damaged("config.yaml", text(content)), ASKED,
           "run/config.yaml is not a study's configuration: ... choose another --out") for name, content in NO_CONFIGS.items()),
    Case("certify: configuration empty", damaged("config.yaml", empty), "certify run",
         "run/config.yaml is not a study's configuration"),
    Case("configuration binary", damaged("config.yaml", text(b"\xff")), ASKED, "run/config.yaml is not a study's config"),
    Case("certify: configuration binary", damaged("config.yaml", text(b"\xff")), "certify run",
         "run/config.yaml is not a study's"),
    Case("configuration of another study", nothing, f"{ASKED} --seed 3",
         "run holds another study (seed is 0 there, 3 here); choose"),
    Case("files and no configuration", gone("config.yaml"), ASKED, "run is not empty and holds no study; choose another --out"),
    # -- the manifest --------------------------------------------------------------------------------------------------
    *(Case(f"manifest {name}", damaged("manifest.json", BROKEN[name]), ASKED, f"run/manifest.json is {line}", loads=True)
      for name, line in NO_MANIFESTS.items()),
    Case("manifest changed", damaged("manifest.json", lambda data: data + b" ", True), ASKED, f"run/manifest.json {OTHER_SUM}",
         loads=True),
    Case("manifest nested without end", damaged("manifest.json", text(DEEP)), ASKED, "manifest.json is", loads=True),
    # -- what was measured ---------------------------------------------------------------------------------------------
    resumed("a line that is damaged", damaged("evaluations.jsonl", lambda data: b"{x" + data[2:]),
            "run/evaluations.jsonl ... line 1 is damaged; remove"),
    resumed("a bit of a line", damaged("evaluations.jsonl", lambda data: data.replace(b"0.", b"1.", 1)),
            "run/evaluations.jsonl ... line 1 is damaged; remove"),
    Case("checksums that are damaged", damaged(CHECKSUMS, lambda data: b"{x" + data[2:]), ASKED,
         f"run/{CHECKSUMS} ... line 1 is damaged; remove", loads=True),
    resumed("evaluations that are binary", damaged("evaluations.jsonl", text(bytes(range(256)))),
            "run/evaluations.jsonl ... line 1 is damaged; remove"),
    # -- artefacts of stages -------------------------------------------------------------------------------------------
    *(resumed(f"{name}: changed", damaged(name, cut, True), f"run/{name} {OTHER_SUM}") for name in CHECKED),
    resumed("stages.json: changed", damaged("stages.json", cut, True), f"run/stages.json {OTHER_SUM}"),
    resumed("stages.json: cut off", damaged("stages.json", cut), "run/stages.json is damaged; delete it to have it made again"),
    *(resumed(f"{name}: another", damaged(name, text('{"a": 1}')), f"run/{name} is damaged; delete it")
      for name in ARTEFACTS),
    resumed("a ranking of nothing", damaged("ranking.csv", empty), "run/ranking.csv ranks no neuron; expected",
            ("run/curve.json",)),
    resumed("a ranking that is binary", damaged("ranking.csv", text(bytes(range(256)))),
            "run/ranking.csv cannot be read as a ranking", ("run/curve.json",)),
    # -- the folder ----------------------------------------------------------------------------------------------------
    Case("a report that is a folder", instead("report.html", Path.mkdir), "report run",
         "run/report.html cannot be written: it is a folder; give"),
    Case("a report into a folder", lambda f: (f / "r.html").mkdir(), "report run --out r.html",
         "r.html cannot be written: it is a folder; give another --out"),
    Case("a report into nowhere", nothing, "report run --out none/r.html",
         "none/r.html cannot be written: No such file or directory; give"),
    Case("figures that are a file", lambda f: (shutil.rmtree(f / "run/figures"), (f / "run/figures").write_text("x")),
         "report run", "run/figures cannot be written: File exists; give another --out"),
    Case("an explanation of no collapse", nothing, "explain run", "run found no collapse; there is no critical set to explain"),
]  # fmt: skip


@table(CASES)
def test_what_is_wrong_with_a_run_directory_is_said(check: Callable[..., str], case: Case, tmp_path: Path, studied: Path):
    for name in ("model", "run"):
        shutil.copytree(studied / name, tmp_path / name)
    check(case)


@pytest.mark.parametrize(
    ("name", "command", "line"),
    [
        ("run/result.json", "show run", "run/result.json cannot be read (Permission denied); expected the run directory"),
        ("run", "show run", "Permission denied"),
        ("run/critical.json", "diff run run", "run/critical.json ... Permission denied"),
        ("run/config.yaml", ASKED, "run/config.yaml: Permission denied; mend that"),
    ],
)  # fmt: skip
def test_a_run_that_may_not_be_read(
    check: Callable[..., str], tmp_path: Path, studied: Path, name: str, command: str, line: str
):
    for folder in ("model", "run"):
        shutil.copytree(studied / folder, tmp_path / folder)
    try:
        check(Case(name, lambda f: (f / name).chmod(0), command, line), as_anybody())
    finally:
        (tmp_path / name).chmod(0o700)


@pytest.mark.parametrize("content", [b"{", b"[]", DEEP], ids=["cut off", "a list", "nested without end"])
def test_an_explanation_that_is_damaged(check: Callable[..., str], content: bytes):
    def make(folder: Path) -> None:
        results.save(results.result(), folder / "run")
        (folder / "run" / "explanation.json").write_bytes(content)

    check(Case("explanation", make, "report run", "explanation.json cannot be read ( ... run lesion explain again"))
