"""The blocks of code in README, CONTRIBUTING and docs: found, and taken apart into what can be run.

A block may have an HTML comment before it:

=============================================  ==================================================================
``<!-- not run: REASON -->``                   it is not run; options of ``lesion`` commands in it are still checked
``<!-- slow: REASON -->``                      it is run by ``pytest -m slow``
``<!-- run with: --samples 2 ... -->``         cheap options are added to each ``lesion`` command in it
``<!-- output -->``                            it is what the block before it prints; ``...`` stands for lines left out
``<!-- output; numbers may differ -->``        the same, whatever the numbers
``<!-- output of COMMAND; numbers ... -->``    what that command prints, which a block of the same page runs
=============================================  ==================================================================
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL, BUILT, DATA = ("sh", "bash"), ("math", "{toctree}", "{include}", "{eval-rst}"), ("yaml",)
"""Languages of commands, those that building the documentation checks, and those of files that commands read."""
_FENCE = re.compile(r"^( *)(`{3,})(\S*)(?: .*)?$")
_COMMENT = re.compile(r"^ *<!-- (.+) -->$")


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        page: The file's name.
        line: Where it begins, from 1.
        language: After the fence; ``indented`` for a block without a fence.
        text: Without the fence and its indentation.
        mark: The comment before it; empty where there is none.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def not_run(self) -> bool:
        return self.mark.startswith("not run: ")

    @property
    def slow(self) -> bool:
        return self.mark.startswith("slow: ")

    @property
    def output(self) -> bool:
        return self.mark.split(";")[0].split(" of ")[0] == "output"

    @property
    def added(self) -> list[str]:
        """Options that are added to its commands."""
        return shlex.split(self.mark.removeprefix("run with: ")) if self.mark.startswith("run with: ") else []


def blocks(text: str, page: str) -> Iterator[Block]:
    """Every block of a page, fenced or indented by four spaces after an empty line."""
    lines, mark, i = text.splitlines(), "", 0
    while i < len(lines):
        fence, comment = _FENCE.match(lines[i]), _COMMENT.match(lines[i])
        if fence:
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[2])
            body = [line[len(fence[1]) :] for line in lines[i + 1 : end]]
            yield Block(page, i + 1, fence[3], "\n".join(body), mark)
            i, mark = end, ""
        elif lines[i].startswith("    ") and lines[i].strip() and (i == 0 or not lines[i - 1].strip()):
            end = next((j for j in range(i, len(lines)) if lines[j].strip() and not lines[j].startswith("    ")), len(lines))
            yield Block(page, i + 1, "indented", "\n".join(line[4:] for line in lines[i:end]).rstrip(), mark)
            i, mark = end - 1, ""
        elif comment:
            mark = comment[1]
        elif lines[i].strip():
            mark = ""
        i += 1


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, as words; lines that end in a backslash go on, ``#`` begins a comment."""
    every = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            every.append(words)
    return every


def lesion_arguments(words: list[str]) -> list[str] | None:
    """What ``lesion`` is given in a command; None for a command of another program. Variables of the shell count as 1."""
    if words[0] == "lesion":
        return [re.sub(r"\$\{?\w+\}?", "1", word) for word in words[1:]]
    start = "import rms; from lesion.cli import main; main()"
    return words[words.index(start) + 1 :] if start in words else None


def page_blocks(page: Path) -> list[Block]:
    """The blocks of a file."""
    return list(blocks(page.read_text(), page.name if page.parent == ROOT else f"docs/{page.name}"))
