"""The wheel: everything that is not code is in it, and it works where nothing else of the repository is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lesion.zoo import EMBEDDED
from tests.snippets import ROOT

LEFT_OUT = {"__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the working tree stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns(*LEFT_OUT, "*.egg-info"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    build = subprocess.run(command, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_every_file_of_the_package(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    package = ROOT / "src" / "lesion"
    files = [p for p in package.rglob("*") if p.is_file() and not LEFT_OUT & set(p.parts)]
    wanted = {f"lesion/{p.relative_to(package).as_posix()}": p.stat().st_size for p in files}
    assert {name: sizes.get(name) for name in wanted} == wanted
    assert (
        "lesion/py.typed" in wanted and "lesion/core/sites.py" in wanted and "lesion/report/templates/study.html.j2" in wanted
    )
    for name in EMBEDDED:
        for file in ("model.safetensors", "card.json", "config.json", "README.md", "tokenizer.json"):
            assert f"lesion/zoo/{name}/{file}" in wanted
    strange = [name for name in sizes if not name.startswith(("lesion/", "lesion-"))]
    assert wheel.name.startswith("lesion-0.2.0-")
    assert strange == [], "the package alone, no tests and no docs"
    assert wheel.stat().st_size < 30_000_000


def test_the_wheel_says_what_it_needs(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        about = archive.read(name).decode()
        (scripts,) = [n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt")]
        assert "lesion = lesion.cli:main" in archive.read(scripts).decode()
        assert any(n.endswith("/LICENSE") for n in archive.namelist())
    needed = [line for line in about.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert {"torch>=2.6", "transformers<6,>=5", "typer>=0.12"} <= {line.split(": ")[1] for line in needed}
    assert not any(tool in line for line in needed for tool in ("sphinx", "pytest", "datasets", "bitsandbytes"))
    assert "License-Expression: Apache-2.0" in about


TRIED = """
import lesion, pathlib, sys
assert pathlib.Path(lesion.__file__).is_relative_to(sys.prefix), lesion.__file__
from lesion import load
for name in ("tiny-llava", "tiny-instructblip"):
    print(name, load(name).sites.neurons)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path):
    """A new virtual environment has nothing but what the wheel asks for; downloads torch."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    pip = (programs / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    run(*pip, "torch")
    run(*pip, wheel)
    installed = run(programs / "python", "-m", "pip", "list")
    assert "lesion" in installed and not any(tool in installed for tool in ("pytest", "sphinx", "datasets"))
    assert "11,700 neurons in 44 sites" in run(programs / "lesion", "sites")
    assert run(programs / "python", "-c", TRIED).splitlines()[0] == "tiny-llava 11700"
    run(programs / "lesion", "study", "--samples", "4", "--max-k", "1", "--controls", "0", "--clip", "tiny-clip")
    assert list(tmp_path.glob("runs/*/result.json"))
