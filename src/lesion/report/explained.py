"""What the report shows of an explanation: the matrix of pairs, the doses, and the answers of the dose slider."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lesion.report.words import visible
from lesion.study.explanation import Explanation

Cell = tuple[str, str]
"""Text, and what marks it; empty for nothing."""


LEVELS = (0.5, 2.0, 4.0, 8.0)
"""A token is marked the more, the more of these rises its NLL reaches, in nats."""


@dataclass(frozen=True)
class ExplainedView:
    """What the report says of an explanation.

    Attributes:
        explanation: What was measured.
        intact: Sample id -> the intact answer.
    """

    explanation: Explanation
    intact: Mapping[str, str]

    def pair_rows(self) -> list[tuple[str, list[Cell]]]:
        """A row a neuron: alone on the diagonal, together above it, the sum below."""
        columns = range(len(self.explanation.neurons))
        return [(str(n), [self._cell(row, column) for column in columns]) for row, n in enumerate(self.explanation.neurons)]

    def _cell(self, row: int, column: int) -> Cell:
        if row == column:
            return rise(self.explanation.doses[row].alone), ""
        pair = next(p for p in self.explanation.pairs if p.members == (min(row, column), max(row, column)))
        if row > column:
            return rise(pair.sum), ""
        return rise(pair.rise), "" if pair.interplay == "none" else pair.interplay

    def dose_rows(self) -> list[tuple[str, list[tuple[str, bool]], str]]:
        """A row a neuron, and one for all: each dose, whether the model has collapsed, and what the gradient promises."""
        rows = [
            (str(row.neuron), [(rise(d.rise), bool(d.collapsed)) for d in row.doses], _promised(row.promised))
            for row in self.explanation.doses
        ]
        together = [(rise(d.rise), bool(d.collapsed)) for d in self.explanation.together]
        return [*rows, ("all of them", together, "")] if len(self.explanation.neurons) > 1 else rows

    @property
    def levels(self) -> list[str]:
        """Of the marks of tokens."""
        return [f"{level:g}" for level in LEVELS]

    def token_rows(self) -> list[tuple[str, list[tuple[str, int, str]]]]:
        """Of each sample its name, and of each token its text, how far its loss rises (:data:`LEVELS`) and by how much."""
        return [
            (visible(row.sample), [_token(*token) for token in zip(row.tokens, row.intact, row.masked, strict=True)])
            for row in self.explanation.losses
        ]

    def payload(self) -> dict[str, Any]:
        """What the dose slider shows: every answer at every factor, the largest factor first, the intact answers at 1."""
        doses = self.explanation.together
        steps = [(d.factor, d.collapsed, {a.sample: a.answer for a in d.answers}) for d in doses]
        steps = sorted([*steps, (1.0, False, dict(self.intact))], key=lambda step: -step[0])
        samples = [name for name in self.intact if all(name in answers for _, _, answers in steps)]
        words = {True: "collapsed", False: "standing", None: "undecided"}
        return {
            "factors": [f"{factor:g}" for factor, _, _ in steps], "start": [factor for factor, _, _ in steps].index(1.0),
            "states": ["intact" if factor == 1 else words[collapsed] for factor, collapsed, _ in steps],
            "samples": [visible(name) for name in samples],
            "answers": [[visible(answers[name]) for name in samples] for _, _, answers in steps],
        }  # fmt: skip


def rise(value: float | None) -> str:
    """A rise of the NLL as people read it."""
    return "not finite" if value is None else f"{round(value, 2) + 0.0:+.2f}"  # a small negative number is +0.00


def _promised(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _token(text: str, intact: float | None, masked: float | None) -> tuple[str, int, str]:
    gain = math.inf if intact is None or masked is None else masked - intact
    before, after = ("not finite" if value is None else f"{value:.2f}" for value in (intact, masked))
    return visible(text) or "·", sum(gain >= level for level in LEVELS), f"{before} to {after} nats"
