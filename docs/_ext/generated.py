"""Fills ``<!-- generated: NAME -->`` in the pages from the code: the commands, the fields of options, the scorers.

So a new command or option is documented as soon as it exists, and no page can disagree with ``--help``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel
    from sphinx.application import Sphinx

MARK = re.compile(r"<!-- generated: ([a-z-]+) -->")


def commands() -> str:
    """Every command of the command line: how it is called, what it does, and its arguments and options."""
    import typer

    from lesion.cli.app import app

    group: Any = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items() if not command.hidden)


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["lesion", name, *command.collect_usage_pieces(context)])
    parts = [f"## `lesion {name}`", _plain((command.help or "").strip()), f"```text\n{usage}\n```"]
    for title, kind in (("argument", "argument"), ("option", "option")):
        shown = [p for p in command.get_params(context) if p.param_type_name == kind and not getattr(p, "hidden", False)]
        records = [record for p in shown if (record := p.get_help_record(context)) is not None]
        if records:
            parts.append(_table((title, "what it is"), ((f"`{words.strip()}`", about) for words, about in records)))
    return "\n\n".join(parts)


def study_options() -> str:
    """The fields of a study's options."""
    from lesion.study.options import StudyOptions

    return _fields(StudyOptions)


def plan_options() -> str:
    """The fields of the plan of the paper's experiments."""
    from lesion.paper import Plan

    return _fields(Plan)


def _fields(model: type[BaseModel]) -> str:
    rows = ((f"`{name}`", f"`{field.default!r}`", field.description or "") for name, field in model.model_fields.items())
    return _table(("option", "default", "what it is"), rows)


def scorers() -> str:
    """The registered scorers that give a ranking."""
    from lesion.scoring.options import ScoreOptions
    from lesion.scoring.scorers import SCORERS

    default = ScoreOptions()
    rows = (
        (f"`{s.name}`", s.about, f"{passes[0]} and {passes[1]}", ", ".join(f"`{o}`" for o in s.uses))
        for s in SCORERS.values()
        if s.ranks and (passes := s.passes(default))
    )
    return _table(("scorer", "what it is", "forward and backward passes a sample", "options that it uses"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *([_cell(c) for c in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """A pipe would end the cell, an angle bracket begin a tag; in code neither is escaped but for the pipe."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if text.startswith("`") else _plain(text)


def _plain(text: str) -> str:
    """Nothing in it is Markdown."""
    return re.sub(r"([*_\[\]])", r"\\\1", text).replace("<", "&lt;")


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands, "study-options": study_options, "plan-options": plan_options, "scorers": scorers,
}  # fmt: skip


def fill(_: Sphinx, __: str, content: list[str]) -> None:
    """Replaces the marks of a page that has just been read."""
    content[0] = MARK.sub(lambda mark: PARTS[mark[1]](), content[0])


def without_fields(_: Sphinx, what: str, __: str, made: Any, ___: Any, *____: Any) -> tuple[str, str] | None:
    """Pydantic's signatures repeat every field; the pages list the fields in a table instead."""
    from pydantic import BaseModel

    return ("", "") if what == "class" and issubclass(made, BaseModel) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-signature", without_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
