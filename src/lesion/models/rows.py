"""The :class:`Rows` of a batch on their way through the decoder: what was read so far is in a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lesion.models.kv_cache import roomy_cache

if TYPE_CHECKING:
    import torch

KeyValues = list[tuple["torch.Tensor", "torch.Tensor"]]
"""Keys and values of each layer, ``[heads, tokens, size]`` each, of one sample."""


class Rows:
    """Rows that read tokens together, each as many as it wants.

    The cache has one entry for every token that was fed to any row. Entries that a row must not see, padding and what it took
    back, are not moved: its attention mask leaves them out, and its positions count its own tokens alone.

    Args:
        generator: The language model with its head, called with embeddings.
        count: How many rows.
    """

    def __init__(self, generator: Any, count: int, device: torch.device) -> None:
        import torch

        self._generator, self._cache = generator, roomy_cache()
        self._seen = torch.zeros(count, 0, dtype=torch.long, device=device)
        self._next = torch.zeros(count, dtype=torch.long, device=device)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Rows that read apart, and read on together."""
        import torch

        if len(parts) == 1:
            return parts[0]
        whole = cls(parts[0]._generator, 0, parts[0]._seen.device)
        longest = max(part._seen.shape[1] for part in parts)
        missing = [longest - part._seen.shape[1] for part in parts]
        pad = torch.nn.functional.pad
        whole._seen = torch.cat([pad(part._seen, (n, 0)) for part, n in zip(parts, missing, strict=True)])
        whole._next = torch.cat([part._next for part in parts])
        for layer in range(len(parts[0]._cache.layers)):
            keys, values = (
                torch.cat([pad(part._entries(layer)[of], (0, 0, n, 0)) for part, n in zip(parts, missing, strict=True)])
                for of in (0, 1)
            )
            whole._cache.update(keys, values, layer)
            for part in parts:
                part._cache.layers[layer] = None  # its memory is needed
        return whole

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(x.nbytes for layer in range(len(self._cache.layers)) for x in self._entries(layer))

    def _entries(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, ``[rows, heads, tokens, size]`` each."""
        kept: Any = self._cache.layers[layer]
        return kept.keys, kept.values

    def feed(self, embeds: torch.Tensor, counts: torch.Tensor, keep: int) -> torch.Tensor:
        """Reads tokens.

        Args:
            embeds: ``[rows, tokens, width]``.
            counts: Which of them are a row's own, 0 or 1, ``[rows, tokens]``.
            keep: Of how many of the last tokens the logits are wanted.

        Returns:
            Logits, ``[rows, keep, vocabulary]``.
        """
        import torch

        positions = (self._next[:, None] + counts.cumsum(1) - 1).clamp(min=0)
        self._seen = torch.cat([self._seen, counts], 1)
        self._next = self._next + counts.sum(1)
        return self._generator(
            inputs_embeds=embeds, attention_mask=self._seen, position_ids=positions, past_key_values=self._cache,
            logits_to_keep=keep, use_cache=True,
        ).logits  # fmt: skip

    def take_back(self, counts: Sequence[int]) -> None:
        """Each row forgets so many of its last tokens."""
        import torch

        back = torch.tensor(list(counts), device=self._seen.device)
        ordinal = self._seen.flip(1).cumsum(1).flip(1)  # 1 at a row's last token, 2 at the one before
        self._seen = self._seen * (ordinal > back[:, None])
        self._next = self._next - back
        # What no row sees any more, at the end, needs not be kept.
        seen = self._seen.any(0)
        unused = len(seen) - int(seen.nonzero()[-1]) - 1 if bool(seen.any()) else len(seen)
        if unused:
            self._cache.crop(-unused)
            self._seen = self._seen[:, : len(seen) - unused]

    def only(self, rows: Sequence[int]) -> None:
        """Goes on with these rows, by their places; with one that is named twice in two copies."""
        import torch

        chosen = torch.tensor(list(rows), device=self._seen.device)
        self._cache.batch_select_indices(chosen)
        self._seen, self._next = self._seen[chosen], self._next[chosen]

    # -- what was read elsewhere -------------------------------------------------------------------------------------
    def key_values(self, row: int, layers: int) -> KeyValues:
        """A copy of a row's own entries in the first layers."""
        own = self._seen[row].bool()
        return [(keys[row][:, own], values[row][:, own]) for keys, values in map(self._entries, range(layers))]

    def put(self, parts: Sequence[KeyValues], layers: range) -> None:
        """Entries for layers that were skipped when the rows last read, or for all layers before the rows read anything.

        Args:
            parts: For each row, entries for the tokens it read then, in every layer.
            layers: Which of the layers get them.
        """
        import torch

        if not self._seen.shape[1]:
            lengths = torch.tensor([entries[0][0].shape[1] for entries in parts], device=self._seen.device)
            places = torch.arange(int(lengths.max()), device=lengths.device)
            self._seen = (places >= (len(places) - lengths)[:, None]).long()
            self._next = lengths
        for layer in layers:
            missing = self._seen.shape[1] - self._cache.get_seq_length(layer)
            keys, values = (
                torch.stack([torch.nn.functional.pad(of, (0, 0, missing - of.shape[1], 0)) for of in row])
                for row in zip(*(entries[layer] for entries in parts), strict=True)
            )
            self._cache.update(keys, values, layer)
