"""What the terminal shows of a study that has not come to its end."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.core.metrics import METRICS
from lesion.study.unfinished import Unfinished


def show_unfinished(run: Unfinished, console: Console) -> None:
    """How far it is, the sets that were measured last, and the command that goes on."""
    state = "it is not running" if run.owner is None else f"{run.owner} is working on it"
    if run.owner is None and run.started is None:
        state = "it has not begun"
    console.print(f"[bold]The study of {escape(run.model)} is not finished; {escape(state)}.[/]", soft_wrap=True)
    if run.started is not None:
        times = "once" if run.starts == 1 else f"{run.starts:,} times"
        console.print(f"first started {escape(run.started)}; started {times}")
    console.print(f"stages done: {', '.join(run.done) or 'none'}", soft_wrap=True)
    console.print(f"to come: {', '.join(run.to_come) or 'none'}", soft_wrap=True)
    if run.k_star is not None:
        console.print(f"k* = {run.k_star:,}")
    if run.last:
        count = "1 set was" if run.evaluations == 1 else f"{run.evaluations:,} sets were"
        table = Table(title=f"{count} measured, these last")
        table.add_column("neurons masked", justify="right")
        table.add_column(METRICS["ppl_reference"].label, justify="right")
        for point in run.last:
            table.add_row(f"{point.neurons:,}", METRICS["ppl_reference"].show(point.ppl_reference))
        console.print(table)
    if run.owner is None:
        console.print(f"to go on: {escape(run.command)}", soft_wrap=True)
