"""The :class:`TokenLayout`: which rows the pass that runs now is over, and the class of each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lesion.core.errors import NeuronSetError
from lesion.models.tokens import GENERATED, TEXT

if TYPE_CHECKING:
    import torch


class TokenLayout:
    """Whoever runs the model says before each pass what is in it; masks that differ by token or by row read it."""

    def __init__(self) -> None:
        self._all: list[tuple[torch.Tensor, int]] = []
        self._speaking: list[int] | None = None

    def expect(self, prompts: Sequence[torch.Tensor], answers: Sequence[int] | None = None) -> None:
        """The next passes are over these rows, padded on the left; those over one token each are decoding steps.

        Args:
            prompts: For each row, the class of each of its prompt's tokens, int64 ``[tokens]``.
            answers: For each row, how many tokens of an answer come after it; None for none.
        """
        self._all, self._speaking = list(zip(prompts, [0] * len(prompts) if answers is None else answers, strict=True)), None

    def follow(self, answers: Sequence[int]) -> None:
        """The next passes are over the expected prompts, each with so many tokens of an answer after it."""
        self.expect([prompt for prompt, _ in self._all], answers)

    def speak(self, rows: Sequence[int]) -> None:
        """The next passes are over tokens of answers alone, of some of the expected rows, by their numbers."""
        self._speaking = list(rows)

    @property
    def rows(self) -> list[int]:
        """The expected rows that the pass is over, by their numbers."""
        return list(range(len(self._all))) if self._speaking is None else self._speaking

    def classes(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The classes of an activation's tokens, int64 ``shape``; padding is given any.

        Args:
            shape: ``(rows, tokens)``; or ``(rows * tokens,)``, where a module sees the tokens of all rows one after the other.

        Raises:
            NeuronSetError: The activation is not that of the expected rows.
        """
        import torch

        rows = len(self.rows)
        tokens = shape[1] if len(shape) == 2 else shape[0] // max(rows, 1)
        classes = torch.full((rows, tokens), GENERATED)
        if tokens != 1 and self._speaking is None:
            longest = max((len(prompt) + answer for prompt, answer in self._all), default=0)
            if shape not in ((rows, longest), (rows * longest,)):
                raise NeuronSetError(f"expected the activation of {rows} rows of {longest} tokens; found {shape}")
            classes[:] = TEXT
            for row, (prompt, answer) in zip(classes, self._all, strict=True):
                end = longest - answer
                row[end - len(prompt) : end] = prompt
                row[end:] = GENERATED
        return classes.view(shape)
