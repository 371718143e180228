"""Every command and snippet of the documentation runs, or says why not; what a page shows as printed is what is printed."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from lesion.ablation import controls
from lesion.cli.app import app
from lesion.core.criterion import CRITERIA, CollapseCriterion
from lesion.core.metrics import METRICS
from lesion.hooks.intervention import INTERVENTIONS
from lesion.models import discovery
from lesion.scoring.scorers import SCORERS
from tests import tiny_models
from tests.families import text as text_models
from tests.snippets import BUILT, DATA, PAGES, ROOT, SHELL, Block, blocks, commands, lesion_arguments, page_blocks

EVERY = [block for page in PAGES for block in page_blocks(page)]
SHELLS = [b for b in EVERY if b.language in SHELL]
PYTHON_PAGES = sorted({b.page for b in EVERY if b.language == "python" and not b.not_run})
GROUP: Any = typer.main.get_command(app)
REGISTRIES: list[dict[str, Any]] = [SCORERS, METRICS, CRITERIA, INTERVENTIONS, controls.KINDS, discovery.KINDS]
"""What snippets add to; each page begins with what is registered in the package."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data that the pages' commands name, and one study that their snippets share."""
    folder = tmp_path_factory.mktemp("desk")
    samples = tiny_models.samples(4)
    for i, sample in enumerate(samples):
        kind = folder / "photos" / ("car", "tree")[i % 2]
        kind.mkdir(parents=True, exist_ok=True)
        sample.picture.save(kind / f"{i}.png")
    _tables(folder / "tables", samples)
    _shards(folder / "shards", samples)
    for block in EVERY:
        if block.language in DATA:
            (folder / f"{yaml.safe_load(block.text)['name']}.yaml").write_text(block.text)
    (folder / "prompts.txt").write_text("what is this ?\na big red tree\n")
    (folder / "questions.jsonl").write_text('{"prompt": "what is this ?", "answer": "a tree"}\n{"prompt": "a big dog"}\n')
    built = text_models.llama()
    built.model.save_pretrained(folder / "my-llama")
    built.processor.save_pretrained(folder / "my-llama")
    return folder


def _tables(folder: Path, samples: list[Any]) -> None:
    from datasets import Dataset
    from datasets import Image as ImageFeature

    folder.mkdir()
    data = Dataset.from_dict({"image": [s.picture for s in samples]}).cast_column("image", ImageFeature())
    data.to_parquet(folder / "train-00000-of-00002.parquet")


def _shards(folder: Path, samples: list[Any]) -> None:
    import tarfile

    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for i, sample in enumerate(samples):
            packed = io.BytesIO()
            sample.picture.save(packed, "PNG")
            member = tarfile.TarInfo(f"{i}.png")
            member.size = len(packed.getvalue())
            tar.addfile(member, io.BytesIO(packed.getvalue()))


@pytest.fixture
def at_desk(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(desk)
    registered, threads = [dict(registry) for registry in REGISTRIES], torch.get_num_threads()
    torch.set_num_threads(1)  # these models are so small that two threads mostly wait for each other
    yield desk
    torch.set_num_threads(threads)
    for registry, before in zip(REGISTRIES, registered, strict=True):
        registry.clear()
        registry.update(before)


# -- every block is of a kind that is checked -------------------------------------------------------------------------
@pytest.mark.parametrize("block", EVERY, ids=str)
def test_every_block_is_checked_or_says_why_not(block: Block):
    known = ("not run: ", "slow: ", "run with: ", "output")
    understood = not block.mark or block.mark.startswith(known) or block.language in BUILT
    assert understood, f"{block}: {block.mark!r} means nothing to the tests"
    assert block.language in (*SHELL, *BUILT, *DATA, "python", "text"), f"{block}: no test checks {block.language!r}"
    if block.language == "text":
        assert block.output or block.not_run, f"{block}: what prints this? Mark it as output, or as not run"
    else:
        assert not block.output, f"{block}: output is text"


def test_the_marks_are_understood():
    page = (
        "<!-- not run: a reason -->\n```sh\nlesion study \\\n  --seed 1  # a comment\n```\n\n    lesion sites\n\n- item\n\n"
        "  <!-- output; numbers may differ -->\n  ```text\n  k = 4\n  ```\nwords\n```fortran\n```\n"
    )
    one, two, three, four = blocks(page, "page")
    assert one.not_run and commands(one.text) == [["lesion", "study", "--seed", "1"]]
    assert (two.language, two.text, two.mark) == ("indented", "lesion sites", "")
    assert three.output and three.text == "k = 4"
    assert (four.language, four.mark) == ("fortran", "")


# -- commands ---------------------------------------------------------------------------------------------------------
def check_lesion(arguments: list[str]) -> None:
    """Whether the command exists and takes these arguments; nothing is run."""
    command = GROUP.commands[arguments[0]]
    command.make_context(arguments[0], list(arguments[1:]))


def check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(arguments) <= set(targets)


def check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"lesion\[([\w,]+)\]", " ".join(arguments)):
        assert set(named.split(",")) <= set(extras)


def check_python(arguments: list[str]) -> None:
    assert arguments[0] == "-m" and importlib.util.find_spec(arguments[1]) is not None


def check_evaluation(arguments: list[str]) -> None:
    """What evaluations that are not installed here are told: a model, tasks, and where the scores go."""
    assert {"--model", "--model_args", "--tasks", "--output_path"} <= set(arguments)


OTHERS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make, "pip": check_pip, "python": check_python, "lm_eval": check_evaluation, "lmms-eval": check_evaluation,
}  # fmt: skip
SHELL_WORDS = ("export", "role=", "roles=", "seed=", "run=", "if", "else", "fi")
"""What a job's script has beside commands."""


@pytest.mark.parametrize("block", SHELLS, ids=str)
def test_every_command_exists_with_its_options(block: Block):
    seen = 0
    for words in commands(block.text):
        arguments = lesion_arguments(words)
        if arguments is not None:
            check_lesion(arguments)
        elif words[0] in OTHERS:
            OTHERS[words[0]](words[1:])
        else:
            assert block.language == "bash" and words[0].startswith(SHELL_WORDS), f"{block}: what is {words[0]!r}?"
        seen += 1
    assert seen


def test_an_option_that_is_not_there_is_found():
    with pytest.raises(Exception, match="--sample"):
        check_lesion(["study", "--sample", "3"])
    with pytest.raises(Exception, match="integer"):
        check_lesion(["study", "--seed", "three"])


def run_shell(block: Block) -> str:
    """Runs the ``lesion`` commands of a block; returns what they print."""
    printed = ""
    for words in commands(block.text):
        arguments = lesion_arguments(words)
        if arguments is None:
            assert words[:2] == ["pip", "install"], f"{block}: only lesion is run; mark the block as not run"
            continue
        run = CliRunner().invoke(app, [*arguments, *block.added])
        assert run.exit_code == 0, f"{block}: {words}: {run.output}"
        printed += run.stdout
    return printed


LONG = (pytest.mark.slow, pytest.mark.timeout(1800))
RUN = [pytest.param(b, marks=LONG) if b.slow else b for b in SHELLS if not b.not_run]


@pytest.mark.parametrize("block", RUN, ids=str)
def test_commands_run_and_print_what_the_page_says(block: Block, at_desk: Path):
    printed = run_shell(block)
    page = [b for b in EVERY if b.page == block.page]
    after = page[page.index(block) + 1 : page.index(block) + 2]
    named = [b for b in page if any(b.mark.startswith(f"output of {line};") for line in block.text.splitlines())]
    for shown in dict.fromkeys([*(b for b in after if b.output and " of " not in b.mark.split(";")[0]), *named]):
        check_output(shown, printed)


def check_output(shown: Block, printed: str) -> None:
    """Whether the lines of a block were printed, in their order and, but for ``...``, one after the other."""
    loose = "numbers may differ" in shown.mark

    def plain(line: str) -> str:
        line = " ".join(line.split())
        return re.sub(r"\d[\d.,]*", "#", re.sub(r"-[0-9a-f]{8}\b", "-#", line)) if loose else line

    lines = [plain(line) for line in printed.splitlines() if line.strip() and not set(line) <= set(" ┏━┳┓┡╇┩└─┴┘├┼┤")]
    at, free = 0, True
    for line in shown.text.splitlines():
        if line.strip() in ("", "..."):
            free = free or line.strip() == "..."
            continue
        where = next((i for i in range(at, len(lines) if free else at + 1) if lines[i : i + 1] == [plain(line)]), None)
        assert where is not None, f"{shown}: {line!r} was not printed there; printed:\n{printed}"
        at, free = where + 1, False


def test_an_output_that_was_not_printed_is_found():
    printed = "one 1\ntwo 2\nthree 3\n"
    check_output(Block("p", 1, "text", "one 1\n...\nthree 3", "output"), printed)
    check_output(Block("p", 1, "text", "two 7", "output; numbers may differ"), printed)
    for wrong in ("two 7", "one 1\nthree 3", "three 3\n...\none 1"):
        with pytest.raises(AssertionError):
            check_output(Block("p", 1, "text", wrong, "output"), printed)


# -- Python -----------------------------------------------------------------------------------------------------------
def run_python(page: str, slow: bool) -> None:
    """Runs a page's snippets in their order, in one namespace, and compares what each prints with the block after it."""
    names: dict[str, Any] = {"__name__": f"snippets of {page}"}
    mine = [b for b in EVERY if b.page == page]
    for i, block in enumerate(mine):
        if block.language != "python" or block.not_run or (block.slow and not slow):
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, str(block), "exec", dont_inherit=True), names)  # the repository's own pages
        if i + 1 < len(mine) and mine[i + 1].output:
            check_output(mine[i + 1], printed.getvalue())


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_snippets_run(page: str, at_desk: Path):
    run_python(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({b.page for b in EVERY if b.language == "python" and b.slow}))
def test_long_python_snippets_run(page: str, at_desk: Path):
    run_python(page, slow=True)


@pytest.mark.parametrize("block", [b for b in EVERY if b.language == "python"], ids=str)
def test_python_snippets_compile(block: Block):
    compile(block.text, str(block), "exec", dont_inherit=True)


# -- adding to lesion -------------------------------------------------------------------------------------------------
ADDING = {
    "an-intervention": "register_intervention", "a-scorer": "register", "a-metric": "register_metric",
    "a-criterion": "register_criterion", "a-site-kind": "register_sites",
}  # fmt: skip
MOST_LINES = 15


@pytest.mark.parametrize(("what", "register"), ADDING.items(), ids=str)
def test_each_thing_that_can_be_added_is_shown_in_fifteen_lines(what: str, register: str):
    """The block with the one function or class that is registered, its imports and its use; empty lines do not count."""
    mine = [b for b in EVERY if b.page == f"docs/adding-{what}.md" and f"@{register}(" in b.text]
    assert len(mine) == 1 and mine[0].language == "python" and not mine[0].not_run and not mine[0].slow
    tree = ast.parse(mine[0].text)
    parts = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(parts) == 1 and len(parts[0].decorator_list) >= 1
    assert len([line for line in mine[0].text.splitlines() if line.strip()]) <= MOST_LINES


def test_files_that_commands_read_are_criteria():
    files = [block for block in EVERY if block.language in DATA]
    assert files
    for block in files:
        assert CollapseCriterion.model_validate(yaml.safe_load(block.text)).conditions


# -- pictures and links -----------------------------------------------------------------------------------------------
def test_pictures_are_there_and_small():
    for page in PAGES:
        for named in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text()):
            file = page.parent / named
            assert file.stat().st_size < 200_000
            with Image.open(file) as picture:
                picture.verify()


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            file, _, heading = target.partition("#")
            other = page.parent / file if file else page
            assert other.is_file(), f"{page.name}: {target}"
            titles = re.findall(r"^#+ (.+)$", other.read_text(), flags=re.M)
            slugs = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert not heading or heading in slugs, f"{page.name}: {target}"
