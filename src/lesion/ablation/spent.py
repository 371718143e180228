"""What answering under masks :class:`Spent`, and what it did not have to spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from lesion.models.decoding import Reply
from lesion.models.trunk import Part


@dataclass
class Spent:
    """Counts, by single rows of batches.

    Attributes:
        rows: Prompts and references that were read.
        tokens: Tokens of the masked models' answers.
        accepted: How many of these came out of drafts.
        passes: Passes in which references were read and answers written.
        layers: Layers that prompts and references had to go through.
        skipped: How many of them were not run, since nothing differed there.
    """

    rows: int = 0
    tokens: int = 0
    accepted: int = 0
    passes: int = 0
    layers: int = 0
    skipped: int = 0

    def add(self, other: Spent) -> None:
        """What was spent elsewhere."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def read(self, parts: Sequence[Part], layers: int) -> None:
        """Parts that a model of so many layers is about to read."""
        for part in (p for p in parts if p.opened is None):
            self.rows += len(part.rows)
            self.passes += len(part.rows)
            self.layers += layers * len(part.rows)
            self.skipped += part.entry.layer * len(part.rows) if part.entry else 0

    def answered(self, replies: Sequence[Reply]) -> None:
        """A batch of answers, whose first pass is that over the reference."""
        self.tokens += sum(len(r.ids) for r in replies)
        self.accepted += sum(r.accepted for r in replies)
        self.passes += sum(r.passes - 1 for r in replies)
