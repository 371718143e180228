"""What a study assumes: each option, whether it has its default, and what we do not know of the paper's choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lesion.study.options import EASING, StudyOptions

OPEN = {
    "prompt": "We do not know the paper's prompt.",
    "alpha": "The paper has alpha from 0 to 1; we do not know which value its tables use.",
    "aggregate": "We do not know how the paper turns a neuron's tokens into one number.",
    "positions": "We do not know which tokens count in the paper.",
    "samples": "We do not know how many images the paper ranks on.",
    "split": "We do not know whether the paper ranks and measures on the same images.",
    "target": "We do not know which text the paper's loss is taken on.",
    "mask": "The paper masks neurons; that masking means setting them to zero is our reading.",
    "criterion": "That a collapse needs both a high perplexity and a CLIP score at chance is our reading of the paper.",
    "max_new_tokens": "We do not know how the paper decodes; here it is greedy, up to this length.",
    "clip": "We do not know which CLIP model the paper's score comes from.",
}
"""Option -> what we do not know of arXiv 2512.00918; docs/paper.md has the whole list."""


@dataclass(frozen=True)
class Assumption:
    """One option of a study.

    Attributes:
        name: As in :class:`lesion.study.options.StudyOptions`.
        value: In words.
        default: In words; None where the value is the default.
        about: What the option does.
        open: What we do not know of the paper; empty where that is nothing.
    """

    name: str
    value: str
    default: str | None
    about: str
    open: str


def assumptions(options: dict[str, Any]) -> list[Assumption]:
    """All options that decide what a study finds; first those that were changed."""
    rows: list[Assumption] = []
    fields = StudyOptions.model_fields
    for name, value in options.items():
        if name in EASING or name == "model":
            continue
        field = fields.get(name)
        usual = None if field is None or value == field.default else in_words(field.default)
        rows.append(Assumption(name, in_words(value), usual, (field and field.description) or "", OPEN.get(name, "")))
    return sorted(rows, key=lambda row: row.default is None)


def in_words(value: Any) -> str:
    """An option's value as people read it."""
    if value is None:
        return "none"
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
