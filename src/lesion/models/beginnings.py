"""The :class:`Beginning` that the prompts of several rows share, a system prompt or an image: read once a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_WORTH = 128
"""Tokens that must be saved for a pass of its own: a small pass takes about as long, since it waits for the weights."""


@dataclass(frozen=True)
class Beginning:
    """What is read once for all rows that are masked alike.

    Attributes:
        tokens: How many of a prompt's first tokens; 0 where it does not pay.
        readers: The places of the rows that read them, one for each mask.
        reader: For each row, the place among the readers of the one that reads for it.
    """

    tokens: int
    readers: Sequence[int]
    reader: Sequence[int]

    @classmethod
    def of(cls, contexts: Sequence[torch.Tensor], masks: Sequence[int]) -> Beginning:
        """The longest that every row shares with those masked alike; one token of each prompt is left over at least.

        Args:
            contexts: A prompt's embeddings a row, ``[tokens, width]``.
            masks: The number of each row's mask.
        """
        first: dict[int, int] = {}
        for place, number in enumerate(masks):
            first.setdefault(number, place)
        tokens = min(len(context) for context in contexts) - 1
        for context, number in zip(contexts, masks, strict=True):
            # Nearly all rows agree with those before them.
            one, other = context[:tokens], contexts[first[number]][:tokens]
            tokens = tokens if one is other or one.equal(other) else int((one == other).all(1).long().cumprod(0).sum())
        places = {number: n for n, number in enumerate(first)}
        worth = (len(contexts) - len(first)) * tokens >= _WORTH
        return cls(tokens if worth else 0, list(first.values()), [places[number] for number in masks])
