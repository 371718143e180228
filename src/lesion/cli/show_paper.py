"""What the terminal shows of the paper's experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.cli.show_study import percent

if TYPE_CHECKING:
    from lesion.paper import Paper
    from lesion.paper.where import Where


def show_paper(paper: Paper, console: Console) -> None:
    """Each model's verdict, where its critical neurons are, and where everything was written."""
    for model, parts in paper.results.items():
        console.print(f"\n[bold]{escape(parts['verdict'].words()[0])}[/]", soft_wrap=True)
        table = Table(title=escape(f"k* of {model}"))
        for name in ("component", "role", "neurons", "stage 1", "k*", "share", "95 % interval"):
            table.add_column(name, justify="right" if name in ("neurons", "k*", "share") else "left")
        for cell in cast("Where", parts["where"]).cells:
            collapse, total = cell.collapse, len(cell.ranking)
            share = percent(None if collapse.k_star is None else collapse.k_star / total)
            if collapse.enough_samples:
                stage1, interval = "not seen" if collapse.stage1_k is None else f"{collapse.stage1_k:,}", cell.interval() or ""
            else:  # why, the notes say
                stage1, interval = "not tested", "" if collapse.k_star is None else "too few samples"
            table.add_row(cell.key.component, cell.key.role, f"{total:,}", stage1, cell.star(), share, interval)
        console.print(table)
    console.print(f"\n[bold]summary[/]: {escape(str(paper.out / 'summary.md'))}", soft_wrap=True)
