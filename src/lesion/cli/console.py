"""What the terminal shows: progress bars while a study runs, and its summary when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from lesion.cli.console_runs import number
from lesion.core.progress import Advance
from lesion.core.sites import Sites
from lesion.core.tables import show

if TYPE_CHECKING:
    from lesion.paper import Paper
    from lesion.study.check_known import KnownCheck
    from lesion.study.doctor import Diagnosis


class Bars:
    """Progress bars on standard error; none where that is not a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        shown = self._console.is_terminal
        with RichProgress(*columns, console=self._console, disable=not shown, transient=True) as bars:
            task = bars.add_task(escape(name), total=total)
            yield lambda steps: bars.advance(task, steps)

    def warn(self, line: str) -> None:
        self._console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)


def show_sites(sites: Sites, console: Console) -> None:
    """One row for each component and role."""
    table = Table(title=f"{sites.neurons:,} neurons in {len(sites)} sites")
    for name in ("component", "role", "layers", "width", "neurons", "reachable"):
        table.add_column(name, justify="left" if name in ("component", "role") else "right")
    for row in sites.table():
        reachable = "all" if row["reachable"] == row["neurons"] else f"{row['reachable']:,}"
        widths = ", ".join(f"{w:,}" for w in row["widths"])
        table.add_row(row["component"], row["role"], str(row["layers"]), widths, f"{row['neurons']:,}", reachable)
    console.print(table)
    for site in sites:
        if not site.reachable:
            console.print(f"unreachable: {escape(site.key)}", style="dim", soft_wrap=True)


def show_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """One row a check, and the verdict."""
    table = Table(title=f"{escape(diagnosis.model)}")
    for name in ("check", "", "found"):
        table.add_column(name)
    for check in diagnosis.checks:
        mark = {True: "[green]ok[/]", False: "[red]failed[/]", None: ""}[check.ok]
        table.add_row(escape(check.name), mark, escape(check.found))
    console.print(table)
    said = "lesion understands this model" if diagnosis.healthy else f"failed: {escape(diagnosis.complaint)}"
    console.print(f"[bold]{said}[/]", soft_wrap=True)


def show_known(check: KnownCheck, console: Console) -> None:
    """What was masked, what it did, and where that is published."""
    table = Table(title=f"known coordinates of {escape(check.known)} ({escape(check.source)}) in {escape(check.model)}")
    for name in ("masked", "neurons", "perplexity of the intact answers", "CLIP score", "collapsed"):
        table.add_column(name, justify="left" if name == "masked" else "right")
    for row in check.table():
        perplexity, clip = (number(row, name) for name in ("ppl_reference", "clip_score"))
        table.add_row(row["role"], str(row["neurons"]), perplexity, clip, "yes" if row["collapsed"] else "no")
    console.print(table)
    for row in check.rows:
        members = ", ".join(f"layer {n.layer} {n.role}[{n.index}]" for n in row.neurons)
        console.print(f"{row.role}: {escape(members)}", soft_wrap=True)
    console.print(f"[bold]run[/]: {escape(check.run)}", soft_wrap=True)


def show_paper(paper: Paper, console: Console) -> None:
    """Each model's verdict, where its critical neurons are, and where everything was written."""
    for model, parts in paper.results.items():
        console.print(f"\n[bold]{escape(parts['verdict'].words()[0])}[/]", soft_wrap=True)
        table = Table(title=escape(f"k* of {model}"))
        for name in ("component", "role", "neurons", "stage 1", "k*", "share", "95 % interval"):
            table.add_column(name, justify="left" if name in ("component", "role") else "right")
        for row in parts["where"].table():
            k_star = f"none up to {row['largest_k']:,}" if row["k_star"] is None else f"{row['k_star']:,}"
            interval = "" if row["k_star"] is None else f"{show(row['k_star_low'])} to {show(row['k_star_high'])}"
            share = "" if row["share"] is None else f"{100 * row['share']:.3g} %"
            table.add_row(row["component"], row["role"], show(row["neurons"]), show(row["stage1_k"]), k_star, share, interval)
        console.print(table)
    console.print(f"\n[bold]summary[/]: {escape(str(paper.out / 'summary.md'))}", soft_wrap=True)
