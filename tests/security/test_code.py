"""No code but lesion's own is run: none that comes with a model, a pickle, a file of options, an image or a run directory."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lesion import zoo
from lesion.ablation.clip import ClipScorer
from lesion.core.errors import DataError, LesionError, ModelError, OptionError, RunError
from lesion.data.samples import load_image
from lesion.models.loading import load, load_structure, reads_text_alone
from lesion.study.certify import certify
from lesion.study.explain import explain
from lesion.study.options import StudyOptions
from lesion.study.reopen import reopened
from lesion.study.rundir import CONFIG
from tests import results
from tests.results import save
from tests.security.watched import ROOT

CLASSES = (
    "AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor",
    "AutoTokenizer",
)  # fmt: skip
SOURCE = ROOT / "src" / "lesion"


class Bomb:
    """What leaves a trace when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file or folder that code leaves if it is run."""
    path = tmp_path / "it-was-run"
    yield path
    assert not path.exists(), "code was run"


def with_code(folder: Path, base: str, marker: Path, model_type: str | None) -> Path:
    """A copy of an embedded model that comes with code, as on the hub; of a model type of its own, or of one that is known."""
    shutil.copytree(zoo.folder(base), folder)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    for file in folder.glob("*config.json"):
        data = json.loads(file.read_text())
        data["auto_map"] = {name: ["evil.Evil"] * 2 if name == "AutoTokenizer" else "evil.Evil" for name in CLASSES}
        if model_type is not None and "model_type" in data:
            data["model_type"] = model_type
        file.write_text(json.dumps(data))
    return folder


# -- models --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model_type", [None, "evil"])
@pytest.mark.parametrize("read", [load, load_structure, reads_text_alone])
def test_code_that_comes_with_a_model_is_not_run(
    tmp_path: Path, marker: Path, model_type: str | None, read: Callable[[str], Any]
):
    folder = with_code(tmp_path / "model", "tiny-llava", marker, model_type)
    if model_type is None:
        read(str(folder))  # transformers knows the model itself
    else:
        with pytest.raises(ModelError, match="--trust-remote-code"):
            read(str(folder))


def test_code_is_run_when_asked_for(tmp_path: Path):
    """The test above could fail."""
    folder = with_code(tmp_path / "model", "tiny-llava", tmp_path / "it-was-run", "evil")
    with pytest.raises(LesionError):
        load(str(folder), trust_remote_code=True)
    assert (tmp_path / "it-was-run").exists()


@pytest.mark.parametrize("model_type", [None, "evil"])
def test_code_that_comes_with_a_clip_model_is_not_run(tmp_path: Path, marker: Path, model_type: str | None, monkeypatch: Any):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers asks for where nothing was said
    folder = with_code(tmp_path / "clip", "tiny-clip", marker, model_type)
    if model_type is None:
        ClipScorer(str(folder))
    else:
        with pytest.raises(ModelError, match="cannot be loaded"):
            ClipScorer(str(folder))


@pytest.mark.parametrize(("base", "read"), [("tiny-llava", load), ("tiny-clip", ClipScorer)])
@pytest.mark.parametrize("whole", [True, False])
def test_a_pickle_is_never_loaded(tmp_path: Path, marker: Path, base: str, read: Callable[[str], Any], whole: bool):
    """In torch's form of today, and as a plain pickle, which older ones of torch were."""
    folder = tmp_path / "model"
    shutil.copytree(zoo.folder(base), folder)
    (folder / "model.safetensors").unlink()
    if whole:
        torch.save({"weight": Bomb(marker)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError, match=r"has its weights as a pickle .* is never loaded here"):
        read(str(folder))


def test_a_pickle_of_another_name_is_not_looked_at(tmp_path: Path, marker: Path):
    folder = tmp_path / "model"
    shutil.copytree(zoo.folder("tiny-llava"), folder)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    load(str(folder))


# -- other files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tag", ["object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:os"])
def test_yaml_makes_no_objects(tmp_path: Path, marker: Path, tag: str):
    text = f"name: !!python/{tag} [{str(marker)!r}]\n"
    with pytest.raises(RunError, match="could not determine a constructor"):
        StudyOptions.from_yaml(f"model: x\n{text}", "config.yaml")
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(OptionError, match="could not determine a constructor"):
        StudyOptions.parse(criterion=str(tmp_path / "c.yaml"))


def test_an_image_starts_no_program(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch):
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match="no kind of image that is known"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("again", [explain, certify, lambda run: reopened(run).__enter__()])
def test_a_run_directory_cannot_ask_for_code(tmp_path: Path, marker: Path, again: Callable[[Path], Any]):
    """Whoever explains a run that somebody sent has not asked for what its config says."""
    model = with_code(tmp_path / "model", "tiny-llava", marker, "evil")
    run = save(results.result(), tmp_path / "run")
    (run / CONFIG).write_text(StudyOptions.parse(model=str(model), trust_remote_code=True).to_yaml())
    with pytest.raises(RunError, match="asks to run code that comes with"):
        again(run)


# -- the source --------------------------------------------------------------------------------------------------------------
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv", "torch.load", "torch.jit.load",
    "np.load", "numpy.load", "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive", "runpy.run_path",
    "socket.create_connection", "webbrowser.open",
}  # fmt: skip
IMPORTS = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "subprocess", "requests", "httpx", "urllib.request"}


def uses(text: str) -> set[str]:
    """What of the above a module's source calls or imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & FORBIDDEN
            if ast.unparse(node.func) == "yaml.load" and "Loader=_Loader" not in ast.unparse(node):
                found.add("yaml.load")
            if any(k.arg in WRONG and literal(k.value) is WRONG[k.arg] for k in node.keywords):
                found.add(ast.unparse(node))
            found |= {"extractall"} if getattr(node.func, "attr", "") in ("extractall", "extract") else set()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & IMPORTS
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} & IMPORTS
    return found


WRONG = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False}


def literal(node: ast.expr) -> Any:
    return node.value if isinstance(node, ast.Constant) else "not known here"


def test_the_source_has_nothing_that_runs_what_it_reads():
    assert {str(f.relative_to(ROOT)): used for f in SOURCE.rglob("*.py") if (used := uses(f.read_text()))} == {}
    bad = "import pickle, yaml\nyaml.load('')\nload(x, trust_remote_code=True)\ntar.extractall('.')\neval('1')\nnp.load('x')"
    assert uses(bad) == {"pickle", "yaml.load", "load(x, trust_remote_code=True)", "extractall", "eval", "np.load"}
