"""What the terminal shows of a study: its answer first, then what it rests on."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.core.criterion import CollapseCriterion
from lesion.core.metrics import METRICS, headline
from lesion.core.tables import Rows, show
from lesion.study.control_entry import ControlEntry, by_kind
from lesion.study.measured import Metrics
from lesion.study.origin import Origin
from lesion.study.remedied import compared
from lesion.study.result import Blind, CriterionEntry, Result
from lesion.study.right_answers import right_rows
from lesion.study.searched import Searched

_BAR = 20
"""Characters of the longest bar of the text plot."""
_LISTED = 10
"""So many neurons of a set are named."""
PERPLEXITY, NLL, CLIP = "ppl_reference", "nll_reference", "clip_score"
"""The metrics of the text plot."""


def show_result(result: Result, console: Console) -> None:
    """The answer, and what it rests on. An answer about a model that does not work on the data is red."""
    style = "bold red" if result.complaints else "bold"
    console.print(f"\n[{style}]{escape(result.verdict)}[/]\n", soft_wrap=True)
    console.print(_metrics_table(result))
    console.print()
    meaning = " (worse than intact, beyond sampling noise)" if result.collapse.enough_samples else ""
    _line(console, "stage 1", f"{result.collapse.stage1()}{meaning}")
    _line(console, "collapse", _collapse(result))
    _line(console, "criterion", _criterion(result))
    if result.undecided:
        _line(console, "undecided", _undecided(result))
    if result.criteria:
        _line(console, "k* by each criterion", "; ".join(_by_criterion(entry, result.largest_k) for entry in result.criteria))
    if result.k_star is not None:
        _show_critical(result, console)
        _show_controls(result.controls, console)
        _show_example(result, console)
    if result.origin is not None:
        _show_origin(result.origin, result, console)
    if result.searched is not None:
        _show_searched(result.searched, console)
    if result.blind is not None:
        _show_blind(result.blind, result.scorer, console)
    for note in result.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    console.print()
    _line(console, "run", result.run)


def _show_origin(origin: Origin, result: Result, console: Console) -> None:
    rows, differing = compared(origin, result)
    shown = "; ".join(f"{label} {before} before, {after} now" for label, before, after in rows)
    unlike = f" (asked differently: {'; '.join(differing)})" if differing else ""
    _line(console, "remedy", f"{origin.did}{': ' if shown else ''}{shown}{unlike}")


def show_run(result: Result, console: Console) -> None:
    """A run that is there: its answer, its curve, and how sure it is."""
    show_result(result, console)
    console.print()
    console.print(_plot(result))
    if rows := right_rows(result):
        console.print(_right(rows))
    for line in result.confidence():
        console.print(escape(line), soft_wrap=True)
    _line(console, "command", result.command)


def percent(share: float | None) -> str:
    """A share of neurons; empty for None."""
    return "" if share is None else f"{100 * share:.3g} %"


def _line(console: Console, what: str, text: str) -> None:
    console.print(f"[bold]{escape(what)}[/]: {escape(text)}", soft_wrap=True)


def _collapse(result: Result) -> str:
    if result.k_star is None:
        return f"none up to k = {result.largest_k:,} of {result.neurons_total:,} neurons"
    share = percent(result.k_star_fraction)
    return f"k* = {result.k_star:,} of {result.neurons_total:,} neurons ({share}); {result.collapse.interval()}"


def _criterion(result: Result) -> str:
    """What counts as collapsed, in words, and which of its conditions decide nothing here."""
    data = result.criterion
    words = (data.get("about") or data["name"]) if "function" in data else str(CollapseCriterion.model_validate(data))
    return f"{data['name']}: {words}" + (f"; {_reasons(result.left_out)}" if result.left_out else "")


def _reasons(left_out: dict[str, str]) -> str:
    """Why conditions decide nothing."""
    return ", ".join(f"{METRICS[metric].label if metric in METRICS else metric} {why}" for metric, why in left_out.items())


def _undecided(result: Result) -> str:
    first, count = result.undecided[0], result.collapse.samples
    at = ", ".join(f"{k:,}" for k in result.undecided)
    need = "" if result.samples_needed is None else f"; about {result.samples_needed:,} would decide k = {first:,}"
    return f"at k = {at} the samples ({count:,}) do not tell whether the model has collapsed{need}"


def _by_criterion(entry: CriterionEntry, largest_k: int) -> str:
    if entry.k_star is not None:
        answer = f"{entry.k_star:,}"
    else:
        answer = "undecided" if entry.undecided else f"none up to {largest_k:,}"
    return f"{entry.name} {answer}" + (f" ({_reasons(entry.left_out)})" if entry.left_out else "")


def _metrics_table(result: Result) -> Table:
    columns: list[tuple[str, Metrics]] = [("intact", result.baseline)]
    points = {p.k: p.metrics for p in result.curve}
    if result.stage1_k is not None and result.stage1_k != result.k_star:
        columns.append((f"stage 1 (k = {result.stage1_k:,})", points[result.stage1_k]))
    last = result.k_star if result.k_star is not None else result.largest_k
    if last:
        columns.append((f"{'largest' if result.k_star is None else 'collapse'} (k = {last:,})", points[last]))
    table = Table()
    table.add_column("")
    for name in (*(name for name, _ in columns), "chance"):
        table.add_column(name, justify="right")
    for metric in headline(result.baseline):
        values = (metric.show(measured.get(metric.name)) for _, measured in columns)
        table.add_row(metric.label, *values, metric.show(result.chance.get(metric.name), missing=""))
    return table


def _plot(result: Result) -> Table:
    """The curve, one line an evaluated k: bars are log10 of the perplexity above the intact one, and the CLIP score."""
    perplexity, clip = METRICS[PERPLEXITY], METRICS[CLIP]
    scored = result.baseline.get(CLIP) is not None
    table = Table(title="the curve", box=None, padding=(0, 1))
    for name in ("k", perplexity.label, "", *((clip.label, "") if scored else ()), "stage"):
        # Labels are as narrow as their longest word, so that there is room for the bars.
        widest = max(map(len, name.split()), default=_BAR)
        table.add_column(name, justify="left" if name in ("", "stage") else "right", max_width=max(widest, len("collapsed")))
    start = result.baseline.get(NLL) or 0.0
    rises = [None if (nll := p.metrics.get(NLL)) is None else (nll - start) / math.log(10) for p in result.curve]
    most = max([1.0, *(r for r in rises if r is not None)])
    for point, rise in zip(result.curve, rises, strict=True):
        bar = "" if rise is None else _bar(rise / most)
        score = point.metrics.get(CLIP)
        scores = (clip.show(score), _bar((score or 0.0) / 100)) if scored else ()
        table.add_row(f"{point.k:,}", perplexity.show(point.metrics.get(PERPLEXITY)), bar, *scores, _stage(result, point.k))
    return table


def _right(rows: Rows) -> Table:
    """Right answers, one line an evaluated k."""
    table = Table(title="right answers", box=None, padding=(0, 1))
    for name in rows[0]:
        table.add_column(escape(name), justify="right")
    for row in rows:
        table.add_row(*(escape(show(value)) for value in row.values()))
    return table


def _bar(share: float) -> str:
    return "█" * round(_BAR * max(share, 0.0)) or "▏"


def _stage(result: Result, k: int) -> str:
    if k == 0:
        return "intact"
    if k in result.collapse.collapsed:
        return "collapsed"
    if k in result.undecided:
        return "undecided"
    return "stage 1" if result.stage1_k is not None and k >= result.stage1_k else ""


def _show_critical(result: Result, console: Console) -> None:
    layers = Counter[tuple[str, int]]()
    for site in result.places:
        layers[site.component, site.layer] += site.critical
    where = (f"{component} layer {layer}: {count:,}" for (component, layer), count in layers.items() if count)
    _line(console, "critical neurons by layer", ", ".join(where))
    if result.minimal_set is not None:
        count = len(result.minimal_set)
        each = f"no {count - 1} of these {count} collapse it" if result.minimal_verified and count > 1 else f"{count}"
        _line(console, f"minimal set ({each})", ", ".join(map(str, result.minimal_set)))


def _show_searched(found: Searched, console: Console) -> None:
    """The set that measuring found, and its own controls."""
    spent = f"{found.spent:,} of {found.budget:,} sets measured on {found.samples:,} samples"
    if found.neurons is None:
        _line(console, "found by measuring", f"nothing ({spent})")
        return
    shown = ", ".join(map(str, found.neurons[:_LISTED]))
    more = f" and {len(found.neurons) - _LISTED:,} more" if len(found.neurons) > _LISTED else ""
    _line(console, f"found by measuring ({found.level})", f"{shown}{more} ({spent})")
    _show_controls(found.controls, console)


def _show_controls(controls: list[ControlEntry], console: Console) -> None:
    words = []
    for group in by_kind(controls).values():
        stand, open_ = (sum(c.collapsed is answer for c in group.sets) for answer in (False, None))
        unsure = f" ({open_} undecided)" if open_ else ""
        words.append(f"{group.label} {stand} of {group.drawn}{unsure}" if group.drawn else f"{group.label} could not be drawn")
    if words:
        _line(console, "controls that leave the model standing", ", ".join(words))


def _show_blind(blind: Blind, scorer: str, console: Console) -> None:
    """What the ranking does not see; that it should worry the reader, the notes say."""
    if (alone := blind.alone) is not None:
        rank = "not in the ranking" if alone.rank is None else f"number {alone.rank:,} in the ranking"
        does = {True: "collapsed", False: "standing", None: "undecided"}[alone.collapsed]
        perplexity = METRICS[PERPLEXITY]
        before, after = (perplexity.show(of.get(PERPLEXITY)) for of in (alone.before, alone.after))
        words = f"{alone.neuron}, {rank} ({scorer}); masked alone: {does}, {perplexity.label} {before} to {after}"
        _line(console, "first by activation", words)
    if (order := blind.beyond) is not None:
        nll = METRICS[NLL]
        words = f"{order.name} {nll.show(order.measured)} measured, at most {nll.show(order.promised)} promised"
        _line(console, "rise of the NLL, in nats, and what the gradient promises", words)


def _show_example(result: Result, console: Console) -> None:
    """The sample whose answer was longest when intact, so that there is something to see."""
    lost = [e for e in result.examples if e.mode != "intact"]
    if not lost:
        return
    example = max(lost, key=lambda e: len(e.intact))
    table = Table(title=f"{escape(example.sample)}: {example.mode}", show_lines=True)
    table.add_column("intact", ratio=1)
    table.add_column(f"k = {result.k_star:,} masked", ratio=1)
    table.add_row(escape(example.intact), escape(example.masked) or "[dim](empty)[/]")
    console.print(table)
