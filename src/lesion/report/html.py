"""The report: one HTML file that needs nothing else, made from results alone.

Every text is escaped: what models say, prompts and names of files and categories may hold anything. The page forbids
itself all network, and all scripts and styles but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lesion.core.errors import RunError
from lesion.core.files import write_text
from lesion.core.metrics import METRICS, Metric
from lesion.core.modes import COLOURS
from lesion.core.tables import Rows, show
from lesion.report.charts import Chart, overlay_chart
from lesion.report.fits import check
from lesion.report.view import View
from lesion.report.words import visible
from lesion.study import rundir
from lesion.study.control_entry import by_kind
from lesion.study.explanation import Explanation
from lesion.study.measured import Metrics
from lesion.study.result import Result

COMPARISON = "comparison.html"
"""Of several studies, where no name is given."""
COMPARED = ("ppl_reference", "clip_score")
"""Metrics of the table of several studies."""
STYLES, SCRIPTS = ("page.css", "report.css"), ("report.js", "table.js")
# In JSON, these are escaped as JSON does it, so that no text can end the element that holds it.
_JSON = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


@dataclass(frozen=True)
class Run:
    """A finished study.

    Attributes:
        result: Its answer.
        folder: Its run directory, for the pictures.
    """

    result: Result
    folder: Path

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Reads a run directory.

        Raises:
            RunError: No such run, or no result of this version of lesion.
        """
        folder = Path(path)
        return cls(Result.load(folder), folder if folder.is_dir() else folder.parent)


Source = Run | Result | str | Path
"""What a report is made from: a finished study, in memory or as its run directory."""


def write_report(runs: Source | Sequence[Source], path: str | Path | None = None) -> Path:
    """Writes the report of one study, or of several side by side, whole or not at all.

    Args:
        runs: A result or a run directory, or several.
        path: The file. Default: ``report.html`` in the run directory, with the figures beside it in ``figures/``; of several,
            ``comparison.html`` in the current folder.

    Raises:
        RunError: A run cannot be read, or a file cannot be written.
    """
    listed = [_run(source) for source in ([runs] if isinstance(runs, Run | Result | str | Path) else runs)]
    default = default_file(listed)
    file = default if path is None else Path(path)
    if file.is_dir():
        raise RunError(f"{file} cannot be written: it is a folder; give another --out, or mend that")
    made = report(listed)  # what is wrong with the runs is said before anything is written
    try:
        if len(listed) == 1 and file == default:
            from lesion.report.plots import save_figures

            save_figures(listed[0].result, listed[0].folder / rundir.FIGURES)
        write_text(file, made)
    except OSError as error:
        where = Path(error.filename2 or error.filename or file)
        where = file if where.name.startswith(".") else where  # what is renamed in the end has a name of its own until then
        raise RunError(f"{where} cannot be written: {error.strerror or error}; give another --out, or mend that") from None
    return file


def default_file(runs: Sequence[Run]) -> Path:
    """Beside the run's other files; of several runs, in the current folder."""
    return runs[0].folder / rundir.REPORT if len(runs) == 1 else Path(COMPARISON)


def _run(source: Source) -> Run:
    if isinstance(source, Run):
        return source
    return Run(source, Path(source.run)) if isinstance(source, Result) else Run.load(source)


def report(runs: Sequence[Run]) -> str:
    """The page of one study, or of several side by side.

    Raises:
        RunError: Parts of a result do not fit together.
    """
    for run in runs:
        check(run.result, Explanation.load(run.folder))
    views = [View(run.result, run.folder, f"r{i}") for i, run in enumerate(runs, start=1)]
    if len(views) == 1:
        return page("single.html.j2", title=f"lesion: {views[0].name}", view=views[0])
    title = f"lesion: {len(views)} studies side by side"
    return page("several.html.j2", title=title, views=views, rows=compare(views), overlay=overlay(views))


def compare(views: Sequence[View]) -> list[dict[str, Any]]:
    """One row a study, as the paper's tables have them."""
    rows = []
    clip = METRICS["clip_score"]
    for view in views:
        result, after = view.result, view.metrics_at(view.end)
        kinds = by_kind(result.controls).values()
        fallen, drawn = sum(k.fallen for k in kinds), sum(k.drawn for k in kinds)
        share = f"{100 * (result.k_star_fraction or 0):.2g} %"
        star = f"none up to {result.largest_k:,}" if result.k_star is None else f"{result.k_star:,} ({share})"
        rows.append({
            "model": result.model, "component": result.component, "role": result.role, "category": view.category or "all",
            "neurons": result.neurons_total, "stage 1": _unbroken(view.collapse.stage1()),
            "k*": star.replace(" ", "\N{NO-BREAK SPACE}"), "interval of k*": _unbroken(view.collapse.interval()),
            **{METRICS[name].label: _from_to(result.baseline, after, METRICS[name]) for name in COMPARED},
            f"{clip.label} by chance": clip.show(result.chance.get(clip.name)),
            "controls that collapse it": f"{fallen} of {drawn}" if drawn else "none drawn",
            "minimal set": "not sought" if result.minimal_set is None else len(result.minimal_set),
        })  # fmt: skip
    return rows


def _unbroken(words: str) -> str:
    """Keeps ``k = 4`` and ``95 %`` in one line."""
    return words.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")


def _from_to(before: Metrics, after: Metrics, metric: Metric) -> str:
    """Both values in one unbroken piece; once where neither was measured."""
    first, second = metric.show(before.get(metric.name)), metric.show(after.get(metric.name))
    if first == second == metric.show(None):
        return first
    return f"{first}\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}{second}"


def overlay(views: Sequence[View]) -> Chart:
    """All curves in one drawing."""
    return overlay_chart([(view.name, view.curve) for view in views])


def summary_page(title: str, first: Sequence[str], sections: Sequence[Mapping[str, Any]]) -> str:
    """The page of ``lesion paper``.

    Args:
        title: Of the page.
        first: The answer, one sentence a model.
        sections: Title and parts; each part with model, words, tables (name -> rows, how many more) and figure (SVG).
    """
    return page("summary.html.j2", title=title, first=first, sections=sections)


def page(template: str, **values: Any) -> str:
    """A page from a template, with the styles and scripts inside it and a policy that allows no others."""
    style, script = ("".join(_asset(name) for name in names) for names in (STYLES, SCRIPTS))
    style = mode_colours() + style
    policy = "; ".join((
        "default-src 'none'", "img-src data:", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'",
        "base-uri 'none'", "form-action 'none'",
    ))  # fmt: skip
    return _templates().get_template(template).render(style=Markup(style), script=Markup(script), policy=policy, **values)


def mode_colours() -> str:
    """One CSS custom property a mode, ``--mode-intact`` and so on: the colours of :data:`lesion.core.modes.COLOURS`."""
    return ":root {" + "".join(f" --mode-{mode}: {colour};" for mode, colour in COLOURS.items()) + " }\n"


def to_json(data: Any) -> Markup:
    """JSON that is safe inside a script element."""
    return Markup(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_JSON))


def columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def data_uri(svg: bytes) -> str:
    """A figure, for an image element: scripts in it do not run there."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("lesion.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    templates.filters |= {"show": show, "to_json": to_json, "columns": columns, "data_uri": data_uri}
    return templates


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
