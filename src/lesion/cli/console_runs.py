"""What the terminal shows of runs: one of them, two side by side, and one image tried with a mask."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.core.tables import show
from lesion.study.result import Control, Metrics, Result, by_kind

if TYPE_CHECKING:
    from lesion.study.difference import Difference
    from lesion.study.trial import Trial

_BAR = 24
"""Characters of the longest bar of the text plot."""


def show_result(result: Result, console: Console) -> None:
    """The answer first, then what it rests on."""
    console.print(f"\n[bold]{escape(result.verdict)}[/]\n", soft_wrap=True)
    console.print(_metrics_table(result))
    console.print()
    stage1 = f"begins at k = {result.stage1_k:,}" if result.stage1_k is not None else "not seen"
    console.print(f"[bold]stage 1[/] (worse than intact, beyond sampling noise): {stage1}", soft_wrap=True)
    if result.k_star is None:
        console.print(f"[bold]collapse[/]: none up to k = {result.largest_k:,}", soft_wrap=True)
    else:
        low, high = (f"{end:,}" if end is not None else "none" for end in result.k_star_ci)
        share = f"{100 * (result.k_star_fraction or 0):.3g} %"
        console.print(
            f"[bold]collapse[/]: k* = {result.k_star:,} of {result.neurons_total:,} neurons ({share}), "
            f"95 % interval over images {low} to {high}", soft_wrap=True,
        )  # fmt: skip
        _show_critical(result, console)
        _show_controls(result.controls, console)
        _show_example(result, console)
    for note in result.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    console.print(f"\n[bold]run[/]: {escape(result.run)}", soft_wrap=True)


def show_run(result: Result, console: Console) -> None:
    """A run that is there: its answer, its curve, and how sure it is."""
    show_result(result, console)
    console.print()
    console.print(_plot(result))
    for line in result.confidence():
        console.print(escape(line), soft_wrap=True)
    console.print(f"[bold]asked with[/]: {escape(result.command)}", soft_wrap=True)


def _plot(result: Result) -> Table:
    """The curve, one line an evaluated k: bars are log10 of the perplexity above the intact one, and the CLIP score."""
    table = Table(title="the curve", box=None, padding=(0, 1))
    scored = result.baseline.get("clip_score") is not None
    for name in ("k", "perplexity", "", *(("CLIP", "") if scored else ()), "stage"):
        table.add_column(name, justify="right" if name in ("k", "perplexity", "CLIP") else "left")
    start = result.baseline.get("nll_reference") or 0.0
    rises = [None if (nll := p.metrics.get("nll_reference")) is None else (nll - start) / math.log(10) for p in result.curve]
    most = max([1.0, *(r for r in rises if r is not None)])
    for point, rise in zip(result.curve, rises, strict=True):
        bar = "not finite" if rise is None else "█" * round(_BAR * max(rise, 0.0) / most) or "▏"
        clip = point.metrics.get("clip_score")
        cells = (f"{clip:.1f}", "█" * round(_BAR * clip / 100) or "▏") if clip is not None else ("", "") if scored else ()
        stage = "collapsed" if point.collapsed else "intact" if point.k == 0 else _stage(result, point.k)
        table.add_row(f"{point.k:,}", number(point.metrics, "ppl_reference"), bar, *cells, stage)
    return table


def _stage(result: Result, k: int) -> str:
    return "stage 1" if result.stage1_k is not None and k >= result.stage1_k else ""


def show_difference(difference: Difference, console: Console) -> None:
    """What differs, then what was found, then the critical sets."""
    table = Table(title="what differs, and what was found")
    for name in ("", "", *difference.runs):
        table.add_column(escape(name))
    for row in difference.table():
        table.add_row(row["kind"], escape(row["name"]), *(escape(show(row[side])) for side in ("first", "second")))
    console.print(table)
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
    console.print(f"[bold]asked[/]: {escape(trial.prompt)}", soft_wrap=True)
    console.print(f"[bold]masked[/]: {escape(repr(trial.neurons))}", soft_wrap=True)
    table = Table(title=escape(trial.sample), show_lines=True)
    table.add_column("intact", ratio=1)
    table.add_column(f"{len(trial.neurons):,} masked", ratio=1)
    table.add_row(escape(trial.intact) or "[dim](empty)[/]", escape(trial.masked) or "[dim](empty)[/]")
    console.print(table)
    before, after = (show(p) if p is not None else "not finite" for p in (trial.ppl_intact, trial.ppl_reference))
    console.print(f"perplexity of the intact answer: {before} intact, {after} masked", soft_wrap=True)


_SHOWN = {
    "ppl_reference": "perplexity of the intact answers",
    "ppl_generated": "perplexity of its own answers",
    "ppl_generated_intact": "the same, to the intact model",
    "clip_score": "CLIP score",
    "token_agreement": "token agreement with intact",
    "repeated_ngrams": "repeated 3-grams",
}


def _metrics_table(result: Result) -> Table:
    chosen = [("intact", result.baseline)]
    points = {p.k: p.metrics for p in result.curve}
    if result.stage1_k is not None and result.stage1_k != result.k_star:
        chosen.append((f"stage 1 (k = {result.stage1_k:,})", points[result.stage1_k]))
    last = result.k_star if result.k_star is not None else result.largest_k
    if last:
        chosen.append((f"{'collapse' if result.k_star else 'largest'} (k = {last:,})", points[last]))
    table = Table()
    table.add_column("")
    for name, _ in chosen:
        table.add_column(name, justify="right")
    table.add_column("chance", justify="right")
    for metric, words in _SHOWN.items():
        table.add_row(words, *(number(m, metric) for _, m in chosen), number(result.chance, metric, missing=""))
    return table


def number(metrics: Metrics, name: str, missing: str = "not finite") -> str:
    value = metrics.get(name)
    return missing if value is None else f"{value:,.4g}" if value < 1e6 else f"{value:.1e}"


def _show_critical(result: Result, console: Console) -> None:
    layers = Counter((n.component, n.layer) for n in result.critical)
    where = ", ".join(f"{component} layer {layer}: {count}" for (component, layer), count in sorted(layers.items()))
    console.print(f"[bold]critical neurons by layer[/]: {where}", soft_wrap=True)
    if result.minimal_set is not None:
        members = ", ".join(map(str, result.minimal_set))
        console.print(
            f"[bold]minimal set[/] (no {len(result.minimal_set) - 1} of these {len(result.minimal_set)} collapse it): "
            f"{escape(members)}", soft_wrap=True,
        )  # fmt: skip


def _show_controls(controls: list[Control], console: Console) -> None:
    said = [
        f"{name} {kind.drawn - kind.fallen} of {kind.drawn}" if kind.drawn else f"{name} not possible"
        for name, kind in by_kind(controls).items()
    ]
    if said:
        console.print(f"[bold]controls[/] of the same size that leave the model standing: {', '.join(said)}", soft_wrap=True)


def _show_example(result: Result, console: Console) -> None:
    """The sample whose answer was longest when intact, so that there is something to see."""
    fallen = [e for e in result.examples if e.mode != "intact"]
    if not fallen:
        return
    example = max(fallen, key=lambda e: len(e.intact))
    table = Table(title=f"{escape(example.sample)}: {example.mode}", show_lines=True)
    table.add_column("intact", ratio=1)
    table.add_column(f"k = {result.k_star:,} masked", ratio=1)
    table.add_row(escape(example.intact), escape(example.masked) or "[dim](empty)[/]")
    console.print(table)
