"""What the terminal shows of two runs side by side, and of one image tried with a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.cli.show_study import PERPLEXITY, percent
from lesion.core.metrics import METRICS
from lesion.core.tables import show

if TYPE_CHECKING:
    from lesion.study.difference import Difference
    from lesion.study.result import Result
    from lesion.study.trial import Trial

_LABELS = {
    "neurons_total": "neurons", "stage1_k": "stage 1", "k_star": "k*", "k_star_fraction": "share of the neurons",
    "k_star_ci": "interval of k*", "largest_k": "largest k", "undecided": "undecided at k",
    "minimal_verified": "minimal set verified", "handful": "critical handful",
}  # fmt: skip
"""Field of a result -> what people read; others as they are."""


def show_difference(difference: Difference, console: Console) -> None:
    """The options and conditions that differ, what each run found, and the critical sets."""
    table = Table(title="options and conditions that differ, and what each run found")
    for name in ("", "", *difference.runs):
        table.add_column(escape(name), overflow="fold")
    for kind, pairs in (("option", difference.options), ("condition", difference.conditions)):
        for name, (first, second) in pairs.items():
            table.add_row(kind, escape(name), escape(show(first)), escape(show(second)))
    for name in difference.answers:
        words = (escape(_answer(result, name)) for result in difference.results)
        table.add_row("answer", _LABELS.get(name, name), *words)
    for kind, pairs in (("intact", difference.intact), ("at k*", difference.collapsed)):
        for name, values in pairs.items():
            table.add_row(kind, METRICS[name].label, *_values(difference, kind, name, values))
    console.print(table)
    if not difference.same_model:
        console.print(
            "The runs are of two models: neurons count as the same where site and index are, whatever they do there.",
            soft_wrap=True,
        )
    first, second = difference.only
    if difference.jaccard is None:
        console.print("[bold]critical neurons[/]: none in either", soft_wrap=True)
        return
    console.print(
        f"[bold]critical neurons[/]: {len(difference.both):,} in both, {len(first):,} and {len(second):,} in one alone "
        f"(Jaccard {difference.jaccard:.2f})", soft_wrap=True,
    )  # fmt: skip
    for run, neurons in zip(difference.runs, difference.only, strict=True):
        if len(neurons):
            console.print(f"only in {escape(run)}: {escape(repr(neurons))}", soft_wrap=True)


def show_trial(trial: Trial, console: Console) -> None:
    """Both answers, side by side."""
    console.print(f"[bold]prompt[/]: {escape(trial.prompt)}", soft_wrap=True)
    console.print(f"[bold]masked[/]: {escape(repr(trial.neurons))}", soft_wrap=True)
    table = Table(title=escape(trial.sample), show_lines=True)
    table.add_column("intact", ratio=1)
    table.add_column(f"{len(trial.neurons):,} masked", ratio=1)
    table.add_row(escape(trial.intact) or "[dim](empty)[/]", escape(trial.masked) or "[dim](empty)[/]")
    console.print(table)
    perplexity = METRICS[PERPLEXITY]
    before, after = perplexity.show(trial.ppl_intact), perplexity.show(trial.ppl_reference)
    console.print(f"{perplexity.label}: {before} intact, {after} masked", soft_wrap=True)


def _values(difference: Difference, kind: str, name: str, values: tuple[Any, Any]) -> list[str]:
    """A metric of both runs; at a k* that is not there, nothing was measured."""
    there = [kind == "intact" or result.k_star is not None for result in difference.results]
    return [METRICS[name].show(value) if is_there else "no k*" for value, is_there in zip(values, there, strict=True)]


def _answer(result: Result, name: str) -> str:
    """One field of a result in words."""
    if name == "stage1_k":
        return result.collapse.stage1()
    if name == "k_star_ci":
        return result.collapse.interval()
    if name == "k_star" and result.k_star is None:
        return f"none up to {result.largest_k:,}"
    if name == "k_star_fraction":
        return percent(result.k_star_fraction)
    if name == "undecided":
        return ", ".join(f"{k:,}" for k in result.undecided) or "none"
    return show(getattr(result, name))
