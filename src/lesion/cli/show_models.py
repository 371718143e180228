"""What the terminal shows of a model: its sites, the doctor's checks, and what its known coordinates do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.core.metrics import headline
from lesion.core.sites import Sites

if TYPE_CHECKING:
    from lesion.study.check_known import KnownCheck
    from lesion.study.doctor import Diagnosis
    from lesion.study.ranks import Ranks


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
    verdict = "lesion understands this model" if diagnosis.healthy else f"failed: {diagnosis.complaint}"
    console.print(f"[bold]{escape(verdict)}[/]", soft_wrap=True)


def show_known(check: KnownCheck, console: Console) -> None:
    """What was masked, what it did, and where that is published."""
    columns = check.table()
    table = Table(title=f"known coordinates of {escape(check.known)} ({escape(check.source)}) in {escape(check.model)}")
    table.add_column("masked")
    for column in columns:
        table.add_column(column["role"], justify="right")
    table.add_row("neurons", *(f"{column['neurons']:,}" for column in columns))
    for metric in headline(check.baseline):
        table.add_row(metric.label, *(metric.show(column[metric.name]) for column in columns))
    decisions = {True: "yes", False: "no", None: "undecided"}
    table.add_row("collapsed", *(decisions[column["collapsed"]] for column in columns))
    console.print(table)
    for row in check.rows:
        members = ", ".join(f"layer {n.layer} {n.role}[{n.index}]" for n in row.neurons)
        console.print(f"{row.role}: {escape(members)}", soft_wrap=True)
    for line in check.published:
        console.print(f"published: {escape(line)}", soft_wrap=True)
    console.print(f"[bold]run[/]: {escape(check.run)}", soft_wrap=True)


def show_ranks(found: Ranks, console: Console) -> None:
    """One row a scorer, one column a neuron."""
    of = {str(row.neuron): row.of for row in found.rows}
    table = Table(title=f"ranks in {escape(found.model)}, on {found.samples} samples")
    table.add_column("scorer")
    for name, count in of.items():
        table.add_column(f"{escape(name)}\nof {count:,}", justify="right")
    for row in found.table():
        table.add_row(row["scorer"], *(f"{row[name]:,}" if name in row else "" for name in of))
    console.print(table)
    console.print(f"[bold]run[/]: {escape(found.run)}", soft_wrap=True)
