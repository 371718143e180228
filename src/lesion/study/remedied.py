"""A study of a model that lesion changed, beside the study of the model as it was."""

from __future__ import annotations

from lesion.study.origin import Before, Origin
from lesion.study.result import Result


def before_of(result: Result) -> Before:
    """What a study found, to be kept beside a model that is changed."""
    found = None if result.searched is None or result.searched.neurons is None else len(result.searched.neurons)
    return Before(
        model=result.model, component=result.component, role=result.role, scorer=result.scorer, samples=result.samples,
        criterion=str(result.criterion["name"]), neurons_total=result.neurons_total, k_star=result.k_star,
        largest_k=result.largest_k, found=found, perplexity=result.baseline.get("ppl_reference"),
    )  # fmt: skip


def compared(origin: Origin, result: Result) -> tuple[list[tuple[str, str, str]], list[str]]:
    """A study's answer beside that of the model as it was.

    Returns:
        Rows of label, before and after; and in what the two studies were asked differently.
    """
    before, after = origin.before, before_of(result)
    if before is None:
        return [], []

    def k(study: Before) -> str:
        return f"none up to {study.largest_k:,}" if study.k_star is None else f"{study.k_star:,}"

    def number(value: float | None) -> str:
        return "not measured" if value is None else f"{value:,.4g}"

    rows = [("k*", k(before), k(after)), ("neurons scored", f"{before.neurons_total:,}", f"{after.neurons_total:,}")]
    if before.found is not None or after.found is not None:
        rows.append(("set found by measuring", number(before.found), number(after.found)))
    rows.append(("perplexity of the intact answers", number(before.perplexity), number(after.perplexity)))
    names = ("component", "role", "scorer", "samples", "criterion")
    differing = [
        f"{name} was {getattr(before, name)} and is {getattr(after, name)}"
        for name in names if getattr(before, name) != getattr(after, name)
    ]  # fmt: skip
    return rows, differing
