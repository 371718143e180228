"""What the experiments leave behind: ``tables/``, ``figures/``, ``summary.md``, ``summary.html`` and ``paper.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from lesion.core import tables
from lesion.core.files import write_text
from lesion.core.tables import Rows
from lesion.paper.part import Part, for_people
from lesion.report.figures import save_figure
from lesion.study.rundir import slug

SHOWN = 24
"""Rows of a table in the summary; the file has all of them."""
HEAD = """\
# Summary

{first}

Every number below comes from masks that were measured: `tables/curves.csv` has every point of every curve,
`tables/cells.csv` says what each curve is, and the column `evaluation` of the CSV files names the line of
`{model}/evaluations.jsonl` that holds each image's values. A dash stands for a number that there is none of.
How everything is defined: docs/concepts.md; what the paper says of it: docs/paper.md.
"""

Results = Mapping[str, Mapping[str, Part]]
"""Model -> part's name -> part."""


def write(folder: Path, results: Results, more: Mapping[str, Mapping[str, Rows]], config: Mapping[str, Any]) -> None:
    """Writes everything; each file whole or not at all.

    Args:
        folder: Where.
        results: Every part of every model.
        more: Name of another table -> model -> its rows.
        config: The options.
    """
    for sub in ("tables", "figures"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    write_text(folder / "paper.yaml", yaml.safe_dump(_plain(config), sort_keys=False))
    for name, by_model in _collect(results, more).items():
        rows = [{"model": model, **row} for model, of_model in by_model.items() for row in of_model]
        write_text(folder / "tables" / f"{name}.csv", tables.to_csv(rows))
        # The tables of curves are about the column that others only refer to.
        people = rows if name in more else for_people(rows)
        write_text(folder / "tables" / f"{name}.md", tables.markdown(people))
    for model, parts in results.items():
        for part in parts.values():
            save_figure(part.plot(), folder / "figures", f"{part.name}-{slug(model)}")
    slugs = {model: slug(model) for model in results}
    write_text(folder / "summary.md", summary(results, slugs))
    write_text(folder / "summary.html", html_summary(results, slugs, folder))


def summary(results: Results, slugs: Mapping[str, str]) -> str:
    """Everything as Markdown: the answer first, then part by part, model by model."""
    first = "\n".join(f"- {tables.in_markdown(parts['verdict'].words()[0])}" for parts in results.values())
    text = [HEAD.format(first=first, model="<model>")]
    names = list(next(iter(results.values())))
    for number, name in enumerate(names, start=1):
        text.append(f"\n## {number}. {next(iter(results.values()))[name].title}\n")
        for model, parts in results.items():
            part = parts[name]
            text.append(f"\n### {tables.in_markdown(model)}\n")
            text.append("\n".join(f"- {tables.in_markdown(line)}" for line in part.words()) + "\n")
            text += _table(name, part.table())
            for more, rows in ((more, rows) for more, rows in part.more_tables().items() if rows):
                text.append(f"{more.replace('_', ' ')}:\n")
                text += _table(f"{name}-{more}", rows)
            text.append(f"![{part.title}, {tables.in_markdown(model)}](figures/{part.name}-{quote(slugs[model])}.png)\n")
    return "\n".join(text)


def html_summary(results: Results, slugs: Mapping[str, str], folder: Path) -> str:
    """The same as one page that needs nothing else; its figures are those of the folder."""
    from lesion.report.html import summary_page

    first = [parts["verdict"].words()[0] for parts in results.values()]
    sections = []
    for name, of in next(iter(results.values())).items():
        figures = {model: folder / "figures" / f"{name}-{slugs[model]}.svg" for model in results}
        parts = [_part(of_model[name], model, figures[model]) for model, of_model in results.items()]
        sections.append({"title": of.title, "parts": parts})
    return summary_page("Summary", first, sections)


def _part(part: Part, model: str, figure: Path) -> dict[str, Any]:
    every = {part.name: part.table(), **{f"{part.name}-{more}": rows for more, rows in part.more_tables().items()}}
    shown = {name: for_people(rows) for name, rows in every.items() if rows}
    return {
        "model": model, "words": part.words(), "figure": figure.read_bytes(),
        "tables": {name: {"rows": rows[:SHOWN], "more": max(len(rows) - SHOWN, 0)} for name, rows in shown.items()},
    }  # fmt: skip


def _table(name: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    lines = [tables.markdown(for_people(rows[:SHOWN]))]
    if len(rows) > SHOWN:
        lines.append(f"({len(rows) - SHOWN:,} more rows: `tables/{name}.csv`)\n")
    return lines


def _collect(results: Results, more: Mapping[str, Mapping[str, Rows]]) -> dict[str, dict[str, Rows]]:
    """File name -> model -> rows."""
    files = {name: dict(by_model) for name, by_model in more.items()}
    for model, parts in results.items():
        for part in parts.values():
            for suffix, rows in {"": part.table(), **part.more_tables()}.items():
                files.setdefault(f"{part.name}-{suffix}" if suffix else part.name, {})[model] = rows
    return files


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
