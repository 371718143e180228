"""What the terminal shows of a plan, and of what became of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lesion.models.memory import text
from lesion.planning.comparison import Comparison
from lesion.planning.plan import Case, Plan


def show_plan(plan: Plan, cases: Sequence[Case], console: Console) -> None:
    """Passes and time of each stage, side by side for some k*; then memory and disk, and what all that rests on."""
    who = f"{plan.replicas} replicas" if plan.replicas else "this process alone"
    console.print(
        f"\n[bold]{escape(plan.model)}[/]: {plan.neurons:,} neurons, {plan.ranked:,} samples to rank on and "
        f"{plan.measured:,} to measure on, {who}\n", soft_wrap=True,
    )  # fmt: skip
    table = Table()
    table.add_column("stage")
    for case in cases:
        name = "no collapse" if case.k_star is None else f"k* = {case.k_star:,}"
        table.add_column(f"{name}: passes", justify="right")
        table.add_column("time", justify="right")
    for name in cases[0].stages:
        of = [case.stages[name] for case in cases]
        if any(stage.passes or stage.seconds for stage in of):
            table.add_row(name, *(cell for stage in of for cell in (f"{stage.passes:,}", duration(stage.seconds))))
    table.add_section()
    table.add_row("all", *(cell for case in cases for cell in (f"{case.passes:,}", duration(case.seconds))))
    console.print(table)
    costs = plan.costs
    console.print(
        f"[bold]memory of a replica[/]: {text(plan.memory)}: weights {text(costs.weights)}, and beside them "
        f"{text(costs.scoring * plan.batch_size)} to score a batch or {text(costs.answering * plan.writing)} to answer "
        f"({plan.writing} rows); what libraries take is not in it", soft_wrap=True,
    )  # fmt: skip
    sizes = ", ".join(dict.fromkeys(text(case.disk) for case in cases))
    console.print(f"[bold]disk[/]: {sizes} in {escape(plan.run)}, without the report", soft_wrap=True)
    device = costs.device if costs.device != "cpu" else f"the CPU, {costs.threads} threads"
    console.print(
        f"From {costs.passes} passes in {costs.seconds:.0f} s on {escape(device)}; on another machine they take another time.",
        soft_wrap=True,
    )
    console.print(f"[bold]command[/]: {escape(plan.command)}", soft_wrap=True)


def show_comparison(found: Comparison, console: Console) -> None:
    """What each stage took beside what was planned for it."""
    table = Table(title="the plan, and what it took")
    for name in ("stage", "planned", "took"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in found.stages:
        table.add_row(stage.stage, duration(stage.planned), duration(stage.took))
    table.add_section()
    table.add_row("all", duration(found.planned), duration(found.took))
    console.print(table)
    if found.planned_k_star != found.k_star:
        of = "no collapse" if found.planned_k_star is None else f"k* = {found.planned_k_star:,}"
        console.print(f"The plan is that for {of}, the nearest that was made.", soft_wrap=True)
    if found.differs:
        console.print(f"[yellow]note:[/] {escape(found.differs)}", soft_wrap=True)


def duration(seconds: float) -> str:
    """As people say it."""
    for limit, unit, size in ((100, "s", 1), (100 * 60, "min", 60), (100 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"
