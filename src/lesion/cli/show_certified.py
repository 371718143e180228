"""What the terminal shows of a certificate: what it proves, and the most harmful sets."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.core.metrics import METRICS
from lesion.study.certify import Certified

_ROWS = 10
_WORDS = {True: "collapsed", False: "standing", None: "undecided"}


def show_certified(certified: Certified, console: Console) -> None:
    """The claim first."""
    console.print(f"\n[bold]{escape(str(certified))}[/]\n", soft_wrap=True)
    table = Table(title="the most harmful")
    table.add_column("masked")
    table.add_column("rise of the NLL, nats", justify="right")
    table.add_column("model")
    for entry in certified.worst[:_ROWS]:
        names = ", ".join(map(str, entry.neurons))
        table.add_row(escape(names), METRICS["nll_reference"].show(entry.rise), _WORDS[entry.collapsed])
    console.print(table)
    console.print(f"[bold]certificate[/]: {escape(certified.certificate)}", soft_wrap=True)
