"""What the experiments leave behind: ``tables/``, ``figures/``, ``summary.md``, ``summary.html`` and ``paper.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lesion.core import tables
from lesion.core.files import write_text
from lesion.core.tables import Rows
from lesion.paper.part import Part
from lesion.report.figures import save_figure
from lesion.study.rundir import slug

SHOWN = 24
"""Rows of a table in the summary; the file has all of them."""
HEAD = """\
# What was found

{first}

Every number below comes from masks that were measured: `tables/curves.csv` has every point of every curve, and the
column `evaluation` of the CSV files names the line of `{model}/evaluations.jsonl` that holds each image's values.
How everything is defined: docs/concepts.md; what the paper says of it: docs/paper.md.
"""


def write(
    folder: Path, results: Mapping[str, Mapping[str, Part]], curves: Mapping[str, Rows], config: Mapping[str, Any]
) -> None:
    """Writes everything; each file whole or not at all.

    Args:
        folder: Where.
        results: Model -> part's name -> part.
        curves: Model -> every point of every curve.
        config: What was asked.
    """
    for sub in ("tables", "figures"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    write_text(folder / "paper.yaml", yaml.safe_dump(_plain(config), sort_keys=False))
    for name, by_model in _collect(results, curves).items():
        rows = [{"model": model, **row} for model, found in by_model.items() for row in found]
        write_text(folder / "tables" / f"{name}.csv", tables.to_csv(rows))
        write_text(folder / "tables" / f"{name}.md", tables.markdown(rows))
    for model, parts in results.items():
        for part in parts.values():
            save_figure(part.plot(), folder / "figures", f"{part.name}-{slug(model)}")
    slugs = {model: slug(model) for model in results}
    write_text(folder / "summary.md", summary(results, slugs))
    write_text(folder / "summary.html", html_summary(results, slugs, folder))


def summary(results: Mapping[str, Mapping[str, Part]], slugs: Mapping[str, str]) -> str:
    """The findings as Markdown: the answer first, then part by part, model by model."""
    first = "\n".join(f"- {parts['verdict'].words()[0]}" for parts in results.values())
    text = [HEAD.format(first=first, model="<model>")]
    names = list(next(iter(results.values())))
    for number, name in enumerate(names, start=1):
        text.append(f"\n## {number}. {next(iter(results.values()))[name].title}\n")
        for model, parts in results.items():
            part = parts[name]
            text.append(f"\n### {model}\n")
            text.append("\n".join(f"- {line}" for line in part.words()) + "\n")
            text += _table(name, part.table())
            for more, rows in ((more, rows) for more, rows in part.more_tables().items() if rows):
                text.append(f"{more.replace('_', ' ')}:\n")
                text += _table(f"{name}-{more}", rows)
            text.append(f"![{part.title}, {model}](figures/{part.name}-{slugs[model]}.png)\n")
    return "\n".join(text)


def html_summary(results: Mapping[str, Mapping[str, Part]], slugs: Mapping[str, str], folder: Path) -> str:
    """The same as one page that needs nothing else; its figures are those of the folder."""
    from lesion.report.html import summary_page

    first = [parts["verdict"].words()[0] for parts in results.values()]
    sections = []
    for name, of in next(iter(results.values())).items():
        figures = {model: folder / "figures" / f"{name}-{slugs[model]}.svg" for model in results}
        made = [_part(parts[name], model, figures[model]) for model, parts in results.items()]
        sections.append({"title": of.title, "parts": made})
    return summary_page("What was found", first, sections)


def _part(part: Part, model: str, figure: Path) -> dict[str, Any]:
    tables_ = {part.name: part.table(), **{f"{part.name}-{more}": rows for more, rows in part.more_tables().items()}}
    shown = {name: _without_traces(rows) for name, rows in tables_.items() if rows}
    return {
        "model": model, "words": part.words(), "figure": figure.read_bytes(),
        "tables": {name: {"rows": rows[:SHOWN], "more": max(len(rows) - SHOWN, 0)} for name, rows in shown.items()},
    }  # fmt: skip


def _without_traces(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name not in tables.TRACE} for row in rows]


def _table(name: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    lines = [tables.markdown(rows[:SHOWN])]
    if len(rows) > SHOWN:
        lines.append(f"({len(rows) - SHOWN:,} more rows: `tables/{name}.csv`)\n")
    return lines


def _collect(results: Mapping[str, Mapping[str, Part]], curves: Mapping[str, Rows]) -> dict[str, dict[str, Rows]]:
    """File name -> model -> rows."""
    found: dict[str, dict[str, Rows]] = {"curves": dict(curves)}
    for model, parts in results.items():
        for part in parts.values():
            for suffix, rows in {"": part.table(), **part.more_tables()}.items():
                found.setdefault(f"{part.name}-{suffix}" if suffix else part.name, {})[model] = rows
    return found


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
