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
        self._prompts: list[torch.Tensor] = []
        self._answers: list[int] = []
        self.rows: list[int] = []
        """The expected rows that the pass is over, by their numbers."""
        self._begin: int = 0
        self._end: int | None = None
        self._speaking = False

    def expect(self, prompts: Sequence[torch.Tensor], answers: Sequence[int] | None = None) -> None:
        """The next passes are over these rows, padded on the left; those over one token each are decoding steps.

        Args:
            prompts: For each row, the class of each of its prompt's tokens, int64 ``[tokens]``.
            answers: For each row, how many tokens of an answer come after it; None for none.
        """
        self._prompts = list(prompts)
        self.read(range(len(prompts)), [0] * len(prompts) if answers is None else answers)

    def read(self, rows: Sequence[int], answers: Sequence[int], begin: int = 0, end: int | None = None) -> None:
        """The next passes are over prompts.

        Args:
            rows: Some of the expected rows.
            answers: For each of them, how many tokens of an answer come after the prompt.
            begin: The first token of the prompts that is read.
            end: The token before which reading stops; None to read all.
        """
        self.rows, self._answers, self._speaking = list(rows), list(answers), False
        self._begin, self._end = begin, end

    def speak(self, rows: Sequence[int]) -> None:
        """The next passes are over tokens of answers alone, of some of the expected rows."""
        self.rows, self._speaking = list(rows), True

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
        if not self._speaking and (tokens != 1 or self._end is not None):
            part = slice(self._begin, self._end)
            read = [(self._prompts[row][part], answer) for row, answer in zip(self.rows, self._answers, strict=True)]
            longest = max((len(prompt) + answer for prompt, answer in read), default=0)
            if shape not in ((rows, longest), (rows * longest,)):
                raise NeuronSetError(f"expected the activation of {rows} rows of {longest} tokens; found {shape}")
            classes[:] = TEXT
            for row, (prompt, answer) in zip(classes, read, strict=True):
                end = longest - answer
                row[end - len(prompt) : end] = prompt
                row[end:] = GENERATED
        return classes.view(shape)
