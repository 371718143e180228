"""What goes into a model and comes out of it: a processed prompt, an answer, and several prompts as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lesion.core.parsing import number_of, text_of

if TYPE_CHECKING:
    import torch

Inputs = Mapping[str, "torch.Tensor"]
Side = Literal["left", "right"]
MOST_TOKENS = 2**31
"""No vocabulary has so many; a larger number in a file is damage."""
_OWN_LENGTH = ("pixel", "qformer", "aspect", "image", "video")
"""Inputs whose names begin so have no entry a token, even if they happen to have as many."""


@dataclass(frozen=True)
class Prompt:
    """One sample's processed inputs, unpadded, one row: what the processor returns for it."""

    sample: str
    inputs: Inputs


@dataclass(frozen=True)
class Answer:
    """Generated or given tokens, the end token included where the model came to an end."""

    ids: tuple[int, ...]
    text: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        """From :meth:`as_dict`.

        Raises:
            TypeError: It is none.
            KeyError: The same.
        """
        return cls(tuple(number_of(id, "a token", MOST_TOKENS) for id in data["ids"]), text_of(data["text"], "an answer"))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ids": list(self.ids), "text": self.text}


def by_token(name: str, inputs: Inputs) -> bool:
    """Whether an input has one entry for each token of the prompt, in its second dimension."""
    x, length = inputs[name], inputs["input_ids"].shape[1]
    return x.ndim >= 2 and x.shape[1] == length and not name.startswith(_OWN_LENGTH)


def collate(rows: Sequence[Inputs], pad: int, side: Side = "right") -> dict[str, torch.Tensor]:
    """One-row inputs as one batch.

    Args:
        rows: The same names in each.
        pad: Fills token ids; everything else is filled with 0.
        side: Where inputs by token are padded. All others (pictures of other sizes or with fewer tiles) at their end.
    """
    import torch

    joined: dict[str, torch.Tensor] = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        longest = [max(sizes) for sizes in zip(*(p.shape[1:] for p in parts), strict=True)]
        left = side == "left" and by_token(name, rows[0])
        fill = pad if name.endswith("input_ids") else 0
        joined[name] = torch.cat([_padded(p, longest, left, fill) for p in parts])
    return joined


def _padded(x: torch.Tensor, sizes: Sequence[int], left: bool, fill: int) -> torch.Tensor:
    """Enlarges all dimensions but the first; the second on its left where asked for."""
    import torch

    amounts: list[int] = []
    for dim, size in reversed(list(enumerate(sizes, start=1))):
        missing = size - x.shape[dim]
        amounts += [missing, 0] if left and dim == 1 else [0, missing]
    return torch.nn.functional.pad(x, amounts, value=fill) if any(amounts) else x


def with_answer(inputs: Inputs, ids: Sequence[int], token_type: int) -> dict[str, torch.Tensor]:
    """A prompt's inputs with an answer's tokens after it, for teacher forcing.

    Args:
        inputs: One row.
        ids: The answer.
        token_type: Its ``token_type_ids``, where the model has such; other types are 0.
    """
    import torch

    grown = dict(inputs)
    for name, x in inputs.items():
        if not by_token(name, inputs):
            continue
        if name == "input_ids":
            new = torch.tensor([list(ids)], device=x.device, dtype=x.dtype)
        elif name == "cross_attention_mask":
            new = x[:, -1:].expand(-1, len(ids), *x.shape[2:])  # as generation does: like the last token
        else:
            value = 1 if name == "attention_mask" else token_type if name == "token_type_ids" else 0
            new = torch.full((x.shape[0], len(ids), *x.shape[2:]), value, device=x.device, dtype=x.dtype)
        grown[name] = torch.cat([x, new], dim=1)
    return grown
