"""What a study assumed: each option, whether it was left at its default, and what the paper leaves open about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lesion.options import EASING, StudyOptions

OPEN = {
    "prompt": "The paper does not give its prompt.",
    "alpha": "The paper names alpha from 0 to 1; which value its tables use is not said.",
    "aggregate": "How a neuron's tokens become one number is not said.",
    "positions": "Which tokens count is not said.",
    "samples": "How many images the ranking is made from is not said.",
    "split": "Whether neurons are ranked and measured on the same images is not said.",
    "target": "What text the loss is taken on is not said.",
    "mask": "What a masked neuron is set to is taken to be zero.",
    "max_new_tokens": "How answers are decoded is not said; here greedily, up to this length.",
    "clip": "Which CLIP model gives the score is up to the reader.",
}
"""Option -> what arXiv 2512.00918 does not settle, as far as we know; docs/paper.md has the whole list."""


@dataclass(frozen=True)
class Assumption:
    """One option of a study.

    Attributes:
        name: As in :class:`lesion.options.StudyOptions`.
        value: As chosen, for people.
        default: As it would have been; None where it was.
        about: What the option is.
        open: What the paper leaves open about it; empty where nothing.
    """

    name: str
    value: str
    default: str | None
    about: str
    open: str


def assumptions(options: dict[str, Any]) -> list[Assumption]:
    """All options that decide what a study finds, those first that are not at their default."""
    rows: list[Assumption] = []
    fields = StudyOptions.model_fields
    for name, value in options.items():
        if name in EASING or name == "model":
            continue
        field = fields.get(name)
        usual = None if field is None or value == field.default else said(field.default)
        rows.append(Assumption(name, said(value), usual, (field and field.description) or "", OPEN.get(name, "")))
    return sorted(rows, key=lambda row: row.default is None)


def said(value: Any) -> str:
    """An option's value for people."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
