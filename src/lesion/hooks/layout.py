"""The :class:`TokenLayout`: which class each token of the language model's passes has, for interventions that depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lesion.core.errors import NeuronSetError
from lesion.models.tokens import GENERATED, TEXT

if TYPE_CHECKING:
    import torch


class TokenLayout:
    """Whoever runs the model says before each pass what is in it; a pass over one token is a decoding step."""

    def __init__(self) -> None:
        self._rows: list[tuple[torch.Tensor, int]] = []

    def expect(self, prompts: Sequence[torch.Tensor], answers: Sequence[int] | None = None) -> None:
        """The next passes are over these rows, padded on the left.

        Args:
            prompts: For each row, the class of each of its prompt's tokens, int64 ``[tokens]``.
            answers: For each row, how many tokens of an answer come after it; None for none.
        """
        self._rows = list(zip(prompts, answers or [0] * len(prompts), strict=True))

    def classes(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The classes of an activation's tokens, int64 ``shape``; padding is given any.

        Args:
            shape: ``(rows, tokens)``; or ``(rows * tokens,)``, where a module sees the tokens of all rows one after the other.

        Raises:
            NeuronSetError: The activation is not that of the expected rows.
        """
        import torch

        rows = len(self._rows)
        tokens = shape[1] if len(shape) == 2 else shape[0] // max(rows, 1)
        classes = torch.full((rows, tokens), GENERATED)
        if tokens != 1:
            longest = max((len(prompt) + answer for prompt, answer in self._rows), default=0)
            if shape not in ((rows, longest), (rows * longest,)):
                raise NeuronSetError(f"expected the activation of {rows} rows of {longest} tokens; found {shape}")
            classes[:] = TEXT
            for row, (prompt, answer) in zip(classes, self._rows, strict=True):
                end = longest - answer
                row[end - len(prompt) : end] = prompt
                row[end:] = GENERATED
        return classes.view(shape)
