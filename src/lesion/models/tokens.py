"""What a token of the language model is: the first one, the image's, text, or generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CLASSES = ("first", "image", "text")
"""Classes of a prompt's tokens: the first one, the image's, all others. The first counts as first only."""
FIRST, IMAGE, TEXT, GENERATED = range(4)
"""Their numbers, and that of an answer's tokens, which are text too where only classes are told apart."""


def token_classes(ids: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The class of each token of a prompt.

    Args:
        ids: ``[rows, tokens]``.
        image: Which of them are the image's, bool ``[rows, tokens]``.

    Returns:
        int64 ``[rows, tokens]``, indices into :data:`CLASSES`.
    """
    import torch

    classes = torch.where(image, IMAGE, TEXT)
    classes[:, 0] = FIRST
    return classes
