"""What answering under masks :class:`Spent`, and what it did not have to spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    def add(self, replies: Sequence[Reply], parts: Sequence[Part], layers: int) -> None:
        """A batch, by a model of so many layers."""
        self.rows += len(replies)
        self.tokens += sum(len(r.ids) for r in replies)
        self.accepted += sum(r.accepted for r in replies)
        self.passes += sum(r.passes for r in replies)
        self.layers += layers * len(replies)
        self.skipped += sum(part.entry.layer * len(part.rows) for part in parts if part.entry)
