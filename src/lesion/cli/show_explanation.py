"""What the terminal shows of an explanation: what it comes to, then the table of doses and that of pairs."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.core.metrics import METRICS
from lesion.study.explanation import Explanation


def show_explanation(explanation: Explanation, console: Console) -> None:
    """The sentences first. A dose at which the model has collapsed is red."""
    for line in explanation.sentences():
        console.print(f"[bold]{escape(line)}[/]", soft_wrap=True)
    console.print()
    for number, neuron in enumerate(explanation.neurons, start=1):
        console.print(f"{number}: {escape(str(neuron))}", soft_wrap=True)
    console.print(_doses(explanation))
    if explanation.pairs:
        console.print(_pairs(explanation))


def _doses(explanation: Explanation) -> Table:
    """A row a factor, a column a neuron."""
    table = Table(title="rise of the mean NLL, in nats", caption="red: collapsed")
    table.add_column("values times", justify="right")
    for number in range(1, len(explanation.doses) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    for i, whole in enumerate(explanation.together):
        doses = [row.doses[i] for row in explanation.doses]
        table.add_row(f"{whole.factor:g}", *(_dose(d.rise, d.collapsed) for d in doses), _dose(whole.rise, whole.collapsed))
    promised = ("" if row.promised is None else f"{row.promised:.2f}" for row in explanation.doses)
    table.add_row("promised at 0", *promised, "")
    return table


def _dose(rise: float | None, collapsed: bool | None) -> str:
    return f"[red]{_rise(rise)}[/]" if collapsed else _rise(rise)


def _rise(rise: float | None) -> str:
    if rise is None:
        return METRICS["nll_reference"].show(rise)
    return f"{round(rise, 2) + 0.0:+.2f}"  # a small negative number is +0.00


def _pairs(explanation: Explanation) -> Table:
    table = Table(title="pairs, masked")
    table.add_column("")
    table.add_column("together", justify="right")
    table.add_column("sum of both alone", justify="right")
    table.add_column("")
    for pair in explanation.pairs:
        first, second = (i + 1 for i in pair.members)
        kind = "" if pair.interplay == "none" else pair.interplay
        table.add_row(f"{first}, {second}", _rise(pair.rise), _rise(pair.sum), kind)
    return table
