"""Tables: CSV for programs, Markdown for papers, HTML and pandas for notebooks; and how numbers are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape as _escape
from typing import Any

from lesion.core.errors import OptionError

Row = Mapping[str, Any]
Rows = Sequence[Row]
TRACE = ("curve", "evaluation", "intact_evaluation")
"""Columns that say where a row's numbers come from; CSV files have them, and tables for the eye do not."""


def to_csv(rows: Rows) -> str:
    """One line a row, with a header; None is empty, floats have nine digits."""
    text = io.StringIO()
    table = csv.DictWriter(text, _columns(rows), lineterminator="\n", restval="")
    table.writeheader()
    for row in rows:
        table.writerow({name: _plain(value) for name, value in row.items()})
    return text.getvalue()


def markdown(rows: Rows) -> str:
    """A pipe table; a line that says so where there are no rows."""
    names = [n for n in _columns(rows) if n not in TRACE]
    if not names:
        return "(no rows)\n"
    right = [all(isinstance(r.get(n), int | float | None) for r in rows) for n in names]
    head = [name.replace("_", " ") for name in names]
    cells = [head, *([show(row.get(name)) for name in names] for row in rows)]
    lines = [[in_markdown(cell).replace("|", "\\|") for cell in line] for line in cells]
    lines.insert(1, ["---:" if r else "---" for r in right])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def in_markdown(text: str) -> str:
    """Text in a line of Markdown, which would take elements in it for HTML."""
    return " ".join(text.splitlines()).replace("&", "&amp;").replace("<", "&lt;")


def html(rows: Rows) -> str:
    """A table element; every text is escaped."""
    names = [n for n in _columns(rows) if n not in TRACE]
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(show(row.get(n)))}</td>" for n in names) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def to_frame(rows: Rows) -> Any:
    """A pandas ``DataFrame``.

    Raises:
        OptionError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise OptionError("data frames need pandas, which is not installed: pip install pandas") from None
    return pandas.DataFrame([dict(row) for row in rows])


def show(value: Any) -> str:
    """A value as people read it: four digits, thousands separated, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
    return str(value)


def escape(text: str) -> str:
    return _escape(text, quote=True)


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else value
