"""The house: folders import only from those above them, no module hangs on half of the others, and none is too long to read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snippets import ROOT

PACKAGE = ROOT / "src" / "lesion"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_IMPORTS, MOST_LINES = 15, 400


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & NAMES) or {node.module}
    return {name for name in names if name in NAMES and name != "lesion"} - {name_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_imports_more_than_fifteen_others(path: Path):
    if path != PACKAGE / "__init__.py":  # it names everything that the package offers
        assert len(imports(path)) <= MOST_IMPORTS, sorted(imports(path))
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_the_contracts_of_the_house_are_kept():
    run = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    assert "3 kept, 0 broken" in run.stdout


def test_the_nouns_load_without_torch_and_drawing():
    nouns = [name for name in NAMES if name.startswith("lesion.core.")]
    heavy = ("torch", "transformers", "matplotlib")
    code = f"import sys\nfor name in {nouns}: __import__(name)\nprint([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
