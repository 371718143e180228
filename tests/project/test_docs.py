"""The documentation builds without a warning, and what it says of commands, names, messages and places is in the code."""

from __future__ import annotations

import ast
import contextlib
import importlib
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
from lesion.ablation.controls import KINDS
from lesion.ablation.evaluator import Evaluator
from lesion.cli.app import app
from lesion.core import errors
from lesion.core.criterion import CRITERIA
from lesion.core.metrics import METRICS
from lesion.core.outcome import MODES, SampleOutcome
from lesion.core.statistics import FEWEST, share_upper_bound
from lesion.hooks.intervention import INTERVENTIONS, POSITIONS
from lesion.scoring.scorers import rankers
from lesion.study.health import UNSURE
from lesion.study.options import StudyOptions
from lesion.study.stages import STAGES
from lesion.study.verdict import HANDFUL, HANDFUL_SHARE, LUCKY
from tests.snippets import PAGES, ROOT

DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "lesion"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning is an error, as in ``make docs``."""
    out = tmp_path_factory.mktemp("docs")
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / "trees")]
    run = subprocess.run([*sphinx, str(DOCS), str(out / "html")], capture_output=True, text=True)
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
        thing = getattr(lesion, name)
        assert f'id="{thing.__module__}.{thing.__name__}"' in page, name
    from lesion import paper, testing

    for thing in (*(getattr(paper, n) for n in paper.__all__ if n != "Paper"), testing.plant, testing.recall):
        name = thing.__name__
        assert f'id="lesion.paper.{name}"' in page or f'id="{thing.__module__}.{name}"' in page, name
    plain = words_of(built / "api.html")
    for name, field in StudyOptions.model_fields.items():
        assert f"{name} {field.default!r}" in plain, name


def test_every_scorer_is_listed(built: Path):
    page = words_of(built / "adding-a-scorer.html")
    assert all(f" {name} " in page for name in rankers())


def test_every_metric_mode_and_criterion_is_explained():
    page = (DOCS / "concepts.md").read_text()
    for name in METRICS:
        assert f"`{name}`" in page or name.startswith("nll_"), name
    for name in (*MODES, *CRITERIA, *KINDS):
        assert f"`{name}`" in page, name
    for name in STAGES:
        assert f"| `{name}` | `{STAGES[name].artefact}` |" in page, name
    for name in INTERVENTIONS:
        assert re.search(rf"^\| `{name}\b", page, flags=re.M), name
    for name in POSITIONS:
        assert f"`{name}`" in page, name


def test_the_rule_of_the_verdict_is_the_codes():
    page = (DOCS / "concepts.md").read_text()
    assert f"at most {HANDFUL} neurons, and at most {HANDFUL_SHARE:.0%} of the ranked ones".replace("%", " %") in page
    enough = next(n for n in range(1, 100) if share_upper_bound(0, n) <= LUCKY)
    assert enough == 5 and "Five random sets that\n   all leave it standing are enough for that; four are not." in page
    assert f"fewer than {FEWEST} measured samples" in page and f"above {UNSURE:g}" in page


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
TELLING = {"note", "_note", "warn", "fail"}
"""Functions that tell the user something."""
LISTS = {"wrong.append", "notes.append"}
"""Lists of lines that a result shows."""


def templates(node: ast.expr) -> list[str]:
    """The fixed parts of a message, with … for the others; of one that depends on a condition, both. Empty for other things."""
    if isinstance(node, ast.IfExp):
        return templates(node.body) + templates(node.orelse)
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if not isinstance(node, ast.JoinedStr):
        return []
    parts = (v.value if isinstance(v, ast.Constant) and isinstance(v.value, str) else "…" for v in node.values)
    return [re.sub("…+", "…", "".join(parts))]


def kinds() -> set[str]:
    """Names of lesion's errors, wherever in the package their classes are."""
    names = {name for name, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, errors.LesionError)}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and {getattr(b, "id", "") for b in node.bases} & names:
                names.add(node.name)
    return names


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
            texts: list[str] = []
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and called(node.exc) in names:
                texts = templates(node.exc.args[0])
                assert texts or ast.unparse(node.exc.args[0]) in FROM_ELSEWHERE, f"{where}: what does this say to a user?"
            elif isinstance(node, ast.FunctionDef) and node.name in MADE_IN:
                returns = [n for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None]
                texts = [text for n in returns for text in templates(n.value)]  # pyright: ignore[reportArgumentType]
            elif isinstance(node, ast.Call) and node.args and (called(node) in TELLING or ast.unparse(node.func) in LISTS):
                texts = templates(node.args[0])
            yield from ((text, where) for text in texts)


def listed() -> list[str]:
    """The messages on the page."""
    lines = re.findall(r"^- (`+)(.+?)\1$", (DOCS / "errors.md").read_text(), flags=re.M)
    return [text for _, text in lines]


def test_the_messages_are_found():
    texts = {text for text, _ in messages()}
    assert len(texts) > 150
    for known in (
        "alpha is …; expected a number from 0 to 1", "unknown option …; available: …", "…; skipped",
        "interrupted; to go on where this stopped: …",
        "the curve is not monotone: at some k the model does notably better than at a smaller one",
        "the processor of … has no image processor; is preprocessor_config.json there?",
        "it is unsure of its own answers (perplexity …)", "… was not measured, so collapse is judged without it",
    ):  # fmt: skip
        assert known in texts, known
    assert "ProcessorError" in kinds()
    assert templates(ast.parse("f'{a}{b} is {c!r}; x' ' y' if d else 'z'", mode="eval").body) == ["… is …; x y", "z"]


def test_every_message_is_on_the_page_of_errors():
    page = set(listed())
    missing = {text: where for text, where in messages() if text not in page}
    lines = "\n".join(f"- `{text}`    ({where})" for text, where in missing.items())
    assert not missing, f"add to a section of docs/errors.md, or as a new one with its cause and fix:\n{lines}"


def test_the_page_of_errors_has_no_message_that_the_code_does_not():
    page, texts = listed(), {text for text, _ in messages()}
    assert [text for text in page if text not in texts] == []
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
    checks: set[str] = set()
    for node in ast.walk(trees()[SOURCE / "study" / "doctor.py"]):
        if isinstance(node, ast.Call) and called(node) in ("Check", "_mask_check") and node.args:
            informs = called(node) == "Check" and ast.unparse(node.args[1]) == "None"
            checks |= set() if informs else set(templates(node.args[0]))
    assert len(checks) >= 9
    assert set(page) == checks


# -- places in the code that pages name -------------------------------------------------------------------------------
def test_files_and_names_that_pages_give_exist():
    for page in PAGES:
        for name in set(re.findall(r"`((?:src|tests|training)/[\w/.-]+)`", page.read_text())):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
        for name in set(re.findall(r"`(lesion(?:\.\w+)+)`", page.read_text())):
            assert resolve(name) is not None, f"{page.name}: {name}"
    # The fields that the page lists are those that a sample has in evaluations.jsonl.
    metric = (DOCS / "adding-a-metric.md").read_text()
    assert all(f"`{name}`" in metric for name in SampleOutcome.__dataclass_fields__)
    assert "`Evaluator._outcome`" in metric and inspect.isfunction(Evaluator._outcome)


def resolve(name: str) -> Any:
    """What a dotted name stands for: a module, and then its attributes; None where there is no such thing."""
    thing: Any = lesion
    for part in name.split(".")[1:]:
        if not hasattr(thing, part) and inspect.ismodule(thing) and hasattr(thing, "__path__"):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(f"{thing.__name__}.{part}")
        thing = getattr(thing, part, None)
    return thing


def test_the_folders_of_the_house_are_those_of_the_contract():
    contract = (ROOT / ".importlinter").read_text().split("layers =")[1].split("exhaustive")[0]
    layers = re.findall(r"^    (\w+)$", contract, flags=re.M)
    block = (ROOT / "README.md").read_text().split("## The house")[1].split("```")[1]
    rows = re.findall(r"^(\w+)/", block, flags=re.M)
    assert rows == [name for name in reversed(layers) if name != "testing"]


def test_the_citation_is_whole():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["authors"] == [{"name": "The lesion developers"}]
    assert "2512.00918" in cited["references"][0]["url"]
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{cited["version"]}"' in project and f'license = "{cited["license"]}"' in project
