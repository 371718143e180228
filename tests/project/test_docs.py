"""The documentation builds without a warning, and what it says of commands, names, messages and places is in the code."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import lesion
from lesion.cli.app import app
from lesion.core import errors
from lesion.scoring.scorers import rankers
from lesion.study.options import StudyOptions
from tests.snippets import ROOT

DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "lesion"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning is an error, as in ``make docs``."""
    out = tmp_path_factory.mktemp("docs")
    asked = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / "trees"), str(DOCS), str(out / "html")]
    run = subprocess.run(asked, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return out / "html"


def words_of(page: Path) -> str:
    """A page's text, without its tags."""
    import html

    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page.read_text())).split())


# -- references from the code -----------------------------------------------------------------------------------------
def test_the_command_reference_has_every_command_and_option(built: Path):
    page = words_of(built / "cli.html")
    group: Any = typer.main.get_command(app)
    assert {"study", "sites", "doctor", "paper"} <= set(group.commands)
    for name, command in group.commands.items():
        start = page.index(f"lesion {name} [OPTIONS]")
        part = page[start : page.find(" [OPTIONS]", start + len(f"lesion {name} [OPTIONS]"))]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in part, f"{name} {parameter.opts[0]}"
                assert not parameter.help or parameter.help in part, f"{name} {parameter.opts[0]}"
    assert "generated:" not in page


def test_the_python_reference_has_every_public_name(built: Path):
    page = (built / "api.html").read_text()
    for name in lesion.__all__:
        found = getattr(lesion, name)
        assert f'id="{found.__module__}.{found.__name__}"' in page, name
    from lesion import paper, testing

    for found in (*(getattr(paper, n) for n in paper.__all__ if n != "Paper"), testing.plant, testing.recall):
        name = found.__name__
        assert f'id="lesion.paper.{name}"' in page or f'id="{found.__module__}.{name}"' in page, name
    plain = words_of(built / "api.html")
    for name, field in StudyOptions.model_fields.items():
        assert f"{name} {field.default!r}" in plain, name


def test_every_scorer_is_listed(built: Path):
    page = words_of(built / "adding-a-scorer.html")
    assert all(f" {name} " in page for name in rankers())


def test_formulas_are_formulas(built: Path):
    page = (built / "concepts.html").read_text()
    assert page.count("<math") >= 20 and page.count('<div class="math"><math') == 3
    assert "```" not in page and "$" not in re.sub(r"<[^>]+>", "", page)
    # Nothing is fetched from elsewhere when a page is read.
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]+', page)


def test_the_catalogue_of_pages_is_complete(built: Path):
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^([a-z-]+)$", index, flags=re.M))
    assert listed == {p.stem for p in DOCS.glob("*.md")} - {"index"}
    pages = set(re.findall(r"docs/([\w-]+)\.md", (ROOT / "README.md").read_text()))
    assert {"start", "concepts", "models", "limitations", "errors", "comparison", "data", "paper"} <= pages


# -- the page of errors -----------------------------------------------------------------------------------------------
FROM_ELSEWHERE = {"first_complaint(error, cls)", "str(error)"}
"""Messages that a raise statement passes on; :func:`messages` finds them where they are made."""
MADE_IN = {"first_complaint"}
"""Functions that return a message."""
TELLING = {"note", "_note", "warn"}
"""Functions that tell the user something."""


def template(node: ast.expr) -> str | None:
    """The fixed parts of a message, with … for the others; None where it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = (v.value if isinstance(v, ast.Constant) and isinstance(v.value, str) else "…" for v in node.values)
    return re.sub("…+", "…", "".join(parts))


def kinds() -> set[str]:
    """Names of lesion's errors, wherever in the package their classes are."""
    found = {name for name, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, errors.LesionError)}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and {getattr(b, "id", "") for b in node.bases} & found:
                found.add(node.name)
    return found


def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text()) for file in sorted(SOURCE.rglob("*.py"))}


def called(node: ast.expr | None) -> str:
    """The name of what an expression calls."""
    return getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""


def messages() -> Iterator[tuple[str, str]]:
    """Every message for users, with the place in the code that it comes from."""
    names = kinds()
    for file, tree in trees().items():
        for node in ast.walk(tree):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and called(node.exc) in names:
                said = template(node.exc.args[0])
                assert said or ast.unparse(node.exc.args[0]) in FROM_ELSEWHERE, f"{where}: what does this say to a user?"
                if said:
                    yield said, where
            elif isinstance(node, ast.FunctionDef) and node.name in MADE_IN:
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return) and inner.value is not None and (said := template(inner.value)):
                        yield said, where
            elif isinstance(node, ast.Call) and node.args and (said := template(node.args[0])):
                to_error = called(node) == "echo" and any(k.arg == "err" for k in node.keywords)
                noted = called(node) == "append" and "notes" in ast.unparse(node.func)
                if (called(node) in TELLING or noted or to_error) and said != "lesion: …":
                    yield said, where


def listed() -> list[str]:
    """The messages on the page."""
    found = re.findall(r"^- (`+)(.+?)\1$", (DOCS / "errors.md").read_text(), flags=re.M)
    return [text for _, text in found]


def test_the_messages_are_found():
    found = {said for said, _ in messages()}
    assert len(found) > 100
    for known in (
        "alpha is …; expected a number from 0 to 1", "unknown option …; available: …", "…; skipped",
        "lesion: interrupted; the same command goes on where this one stopped",
        "the curve is not monotone: at some k the model is better than at a smaller one",
        "the processor of … has no image processor; is preprocessor_config.json there?",
    ):  # fmt: skip
        assert known in found
    assert "ProcessorError" in kinds()
    assert template(ast.parse("f'{a}{b} is {c!r}; x' ' y'", mode="eval").body) == "… is …; x y"


def test_every_message_is_on_the_page_of_errors():
    page = set(listed())
    missing = {said: where for said, where in messages() if said not in page}
    lines = "\n".join(f"- `{said}`    ({where})" for said, where in missing.items())
    assert not missing, f"add to a section of docs/errors.md, or as a new one with its cause and fix:\n{lines}"


def test_the_page_of_errors_has_no_message_that_the_code_does_not():
    page, found = listed(), {said for said, _ in messages()}
    assert [said for said in page if said not in found] == []
    assert len(page) == len(set(page)), "a message is listed twice"


def test_every_section_of_errors_has_cause_and_fix():
    sections = re.split(r"^### ", (DOCS / "errors.md").read_text(), flags=re.M)[1:]
    assert len(sections) > 30
    for section in sections:
        title = section.splitlines()[0]
        assert re.search(r"^- `", section, flags=re.M), title
        assert section.count("**Cause.**") == section.count("**Fix.**") == 1, title


def test_the_doctors_checks_are_on_the_page():
    page = re.findall(r"^\| `(.+?)` \|", (DOCS / "errors.md").read_text(), flags=re.M)
    asked = set()
    for node in ast.walk(trees()[SOURCE / "doctor.py"]):
        if called(node) in ("Check", "_acts") and node.args and (name := template(node.args[0])):  # pyright: ignore
            informs = called(node) == "Check" and ast.unparse(node.args[1]) == "None"  # pyright: ignore
            asked |= set() if informs else {name}
    assert len(asked) == 9
    assert set(page) == asked


# -- places in the code that pages name -------------------------------------------------------------------------------
def test_the_places_for_a_metric_exist():
    from lesion.ablation import evaluator as evaluation
    from lesion.cli.app import console_runs
    from lesion.core import metrics

    page = (DOCS / "adding-a-metric.md").read_text()
    for name, there in (
        ("SampleOutcome", metrics.SampleOutcome), ("Evaluator._judge", evaluation.Evaluator._judge), ("summarise", metrics.summarise),
        ("Evaluator._batch", evaluation.Evaluator._batch), ("_SHOWN", console_runs._SHOWN),
    ):  # fmt: skip
        assert f"`{name}`" in page and there is not None
    for name in set(re.findall(r"`(src/[\w/.]+)`", page)):
        assert (ROOT / name).exists()
    # The fields that the page lists are those that a line of evaluations.jsonl has for each sample.
    fields = set(metrics.SampleOutcome.__dataclass_fields__)
    assert all(f"`{name}`" in page for name in fields), fields


def test_the_citation_is_whole():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["authors"] == [{"name": "The lesion developers"}]
    assert "2512.00918" in cited["references"][0]["url"]
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{cited["version"]}"' in project and f'license = "{cited["license"]}"' in project
