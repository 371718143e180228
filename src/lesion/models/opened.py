"""An :class:`Opened` batch: prompts and references are read, and answers are begun; they can be written later, or never."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lesion.models.decoding import Speech
from lesion.models.rows import Rows


@dataclass
class Opened:
    """Rows that read prompts and references together.

    Attributes:
        seen: For each row, what was made of the log-probabilities before each token of its reference.
        speeches: For each row, how its answer begins; none where the engine cannot go on from there.
        rows: Of the answers that have not come to their end; None where all have.
    """

    seen: list[Any]
    speeches: list[Speech] = field(default_factory=list)
    rows: Rows | None = None

    @property
    def left(self) -> list[int]:
        """The places of the answers that have not come to their end."""
        return [place for place, speech in enumerate(self.speeches) if not speech.done]

    @property
    def size(self) -> int:
        """Bytes that are held to go on from."""
        return 0 if self.rows is None else self.rows.size
