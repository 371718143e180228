"""What the terminal shows of faults: how often each outcome came, and whether populations differ."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.core.metrics import METRICS
from lesion.remedies.fault_outcome import OUTCOMES, Shares
from lesion.remedies.faults import Faults

MOST_ROWS = 12
"""Of a table of places; JSON has all."""


def show_faults(found: Faults, console: Console) -> None:
    """The shares first."""
    perplexity = METRICS["ppl_reference"].show(found.perplexity)
    console.print(
        f"\n[bold]{escape(found.model)}[/]: {escape(found.what)}; {found.populations[0].drawn:,} trials each, "
        f"{found.samples} samples, perplexity {perplexity}; "
        f"collapsed: {escape(found.criterion)}", soft_wrap=True,
    )  # fmt: skip
    console.print(_table("faults in", found.populations))
    for contrast in found.contrasts:
        console.print(escape(str(contrast)), soft_wrap=True)
    for title, groups in (("layer", found.by_layer), ("weights of", found.by_part), ("bit", found.by_bit)):
        rows = [
            share.model_copy(update={"name": f"{arm}: {title} {share.name} ({share.drawn:,})"})
            for arm, shares in groups.items()
            for share in shares
            if share.failures
        ]
        if len(rows) > 1:
            rows = sorted(rows, key=lambda row: row.failed, reverse=True)
            more = f", the worst {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else ""
            console.print(_table(f"where any failed{more} (trials)", rows[:MOST_ROWS]))
    console.print(f"\n[bold]run[/]: {escape(found.run)}", soft_wrap=True)


def _table(title: str, rows: list[Shares]) -> Table:
    table = Table()
    table.add_column(title, min_width=12)
    for name in (*OUTCOMES, "failed (95 %)"):
        # A space, at which a narrow terminal can break the line.
        table.add_column(name.replace("non-", "not "), justify="right", no_wrap=name not in OUTCOMES)
    for row in rows:
        failed, low, high = ("100" if end == 1 else f"{100 * end:.1f}" for end in (row.failed, *row.interval))
        counts = [f"{row.counts[outcome]:,}" for outcome in OUTCOMES]
        repeated = f" ({row.different:,} different)" if row.different < row.drawn else ""
        table.add_row(escape(row.name) + repeated, *counts, f"{failed} % ({low}–{high})")
    return table
