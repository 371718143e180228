"""A key-value cache with room: a token that is written copies its own entries, and not those of all tokens before it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROOM = 32
"""Tokens for which there is room when a layer's entries must move anyway."""


def roomy_cache() -> Any:
    """A ``transformers`` cache; what it gives is what a ``DynamicCache`` gives, which joins anew at every token."""
    from transformers import Cache

    return Cache(layer_class_to_replicate=_layer_class())


@cache
def _layer_class() -> Any:
    # Its base is slow to import.
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """Its ``keys`` and ``values`` are the beginnings of larger tensors."""

        _whole: tuple[torch.Tensor, ...] = ()

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if not self.is_initialized:
                return super().update(key_states, value_states, *args, **kwargs)
            used, new = self.get_seq_length(), key_states.shape[-2]
            if not self._whole or used + new > self._whole[0].shape[-2]:
                whole = [x.new_empty(*x.shape[:-2], used + new + _ROOM, x.shape[-1]) for x in (key_states, value_states)]
                for roomy, old in zip(whole, (self.keys, self.values), strict=True):
                    if old is not None and used:
                        roomy[..., :used, :] = old
                self._whole = tuple(whole)
            for whole, states in zip(self._whole, (key_states, value_states), strict=True):
                whole[..., used : used + new, :] = states
            self.keys, self.values = (whole[..., : used + new, :] for whole in self._whole)
            return self.keys, self.values

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            super().batch_select_indices(indices)
            self._whole = ()

    return RoomyLayer
