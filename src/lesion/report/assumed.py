"""What a study assumed: each option, whether it was left at its default, and what the paper leaves open about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lesion.study.options import EASING, StudyOptions

OPEN = {
    "prompt": "The paper's prompt is not known to us.",
    "alpha": "The paper has alpha from 0 to 1; which value its tables use is not known to us.",
    "aggregate": "How the paper makes one number of a neuron's tokens is not known to us.",
    "positions": "Which tokens count in the paper is not known to us.",
    "samples": "How many images the paper ranks on is not known to us.",
    "split": "Whether the paper ranks and measures on the same images is not known to us.",
    "target": "What text the paper takes the loss on is not known to us.",
    "mask": "The paper masks neurons; that it sets them to zero is our reading.",
    "max_new_tokens": "How the paper decodes is not known to us; here greedily, up to this length.",
    "clip": "Which CLIP model the paper's score is from is not known to us.",
}
"""Option -> what of arXiv 2512.00918 we do not know; docs/paper.md has the whole list."""


@dataclass(frozen=True)
class Assumption:
    """One option of a study.

    Attributes:
        name: As in :class:`lesion.study.options.StudyOptions`.
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
