"""k* once more, with one row in a pass, which is the same for every batch size: :class:`Confirmed`.

How many rows go through a model together decides in which order a matrix product adds, and with it the last digits of a
perplexity. Where a criterion's limit lies between them, k* would hang on ``--batch-size``. So the model is measured again
intact, at k*, and at the k before, each sample by itself.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from lesion.core.criterion import Decision


class ConfirmedPoint(BaseModel):
    """One k of the curve, measured again."""

    k: int
    curve: Decision = Field(description="what the criterion says of the curve's own measurement")
    alone: Decision = Field(description="what it says with one row in a pass")
    evaluation: str = Field(description="key of the line in evaluations.jsonl")


class Confirmed(BaseModel):
    """k* and the largest k before it that was evaluated, measured again with one row in a pass."""

    points: list[ConfirmedPoint]

    @property
    def holds(self) -> bool:
        """Whether the criterion says the same of each."""
        return all(point.curve == point.alone for point in self.points)

    def warnings(self, batch_size: int) -> list[str]:
        """Where it does not."""
        words = {"collapsed": "has collapsed", "standing": "stands", "undecided": "is undecided"}
        return [
            f"rounding decides at k = {p.k:,}: with --batch-size {batch_size:,} the model {words[p.curve]}, and one sample at "
            f"a time it {words[p.alone]}"
            for p in self.points
            if p.curve != p.alone
        ]
