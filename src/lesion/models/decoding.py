"""Greedy answers from drafts: a draft is read in one pass, which says how far the model would have written it itself.

Speculative decoding (arXiv 2211.17192) with a greedy model: the answer is the one that token after token would give, whatever
the drafts are; good ones save passes. Drafts are the answer that the intact model gave, and what followed when the answer
itself was last at the same two tokens: a model that babbles repeats itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reply:
    """What a model, masked or not, says to one prompt, and what it thinks of a given answer.

    Attributes:
        seen: What was made of the log-probabilities before each token of the reference answer.
        ids: Its own greedy answer, with the end token where it came to one.
        log_probs: Of each of that answer's tokens.
        accepted: How many of its tokens were read in a draft, not written one by one.
        passes: In how many passes the whole was written and read.
    """

    seen: Any
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    accepted: int
    passes: int


LONGEST = 16
"""Tokens of a draft that are read in one pass, at most."""


@dataclass
class Speech:
    """One row's answer while it is being written.

    Attributes:
        limit: Longest answer.
        ends: Tokens that end it.
        known: Token ids of an answer that it may turn out to be.
        ids: What is written.
        log_probs: Of each of its tokens.
        accepted: How many tokens came from drafts.
        done: Whether it has come to its end.
    """

    limit: int
    ends: Collection[int]
    known: tuple[int, ...] = ()
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    accepted: int = 0
    done: bool = False
    _trust: int = 2

    def read(self, draft: Sequence[int], greedy: Sequence[int], log_probs: Sequence[float]) -> int:
        """What the model says before each token of a draft, and after its last.

        Args:
            draft: What it was given after what is written.
            greedy: The tokens that it would write, one more than the draft has.
            log_probs: Of these.

        Returns:
            How many of the draft's tokens are now part of the answer.
        """
        accepted = 0
        for i, (token, value) in enumerate(zip(greedy, log_probs, strict=True)):
            self.ids.append(token)
            self.log_probs.append(value)
            self.done = token in self.ends or len(self.ids) == self.limit
            if self.done or i == len(draft) or draft[i] != token:
                break
            accepted += 1
        self.accepted += accepted
        if draft:
            # Drafts that fail are read for nothing.
            self._trust = min(2 * self._trust, LONGEST) if accepted == len(draft) else max(accepted, 1)
        return accepted

    def draft(self, most: int) -> list[int]:
        """How it may go on: at most so many tokens, and none that could come after its end."""
        most = min(most, self._trust, self.limit - len(self.ids) - 1)
        if most < 1:
            return []
        written = len(self.ids)
        if len(self.known) > written and list(self.known[:written]) == self.ids:
            return list(self.known[written : written + most])
        last = self.ids[-2:]
        for start in range(written - 3, -1, -1):
            if self.ids[start : start + 2] == last:
                period = self.ids[start + 2 :]
                return (period * (most // len(period) + 1))[:most]
        return []


def chosen(log_probs: torch.Tensor, ids: Sequence[int]) -> list[float]:
    """The log-probability of each token of an answer, from ``[tokens, vocabulary]``."""
    import torch

    return log_probs.gather(1, torch.tensor(list(ids), device=log_probs.device)[:, None])[:, 0].tolist()
