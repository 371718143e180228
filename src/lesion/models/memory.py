"""How much memory a model takes: its weights, what scoring keeps, and what generating answers keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FLOAT32 = 4


def text(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def weights(model: Any) -> int:
    """Bytes of a model's parameters, wherever they are kept."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def generation(model: Any, tokens: int, answer: int) -> int:
    """Bytes that one sample takes while its answer is generated and judged, by arithmetic.

    Keys and values of every layer for all tokens, and the distributions (float32) of the masked and the intact model for the
    answer's.

    Args:
        model: Its language model's configuration is read.
        tokens: Of prompt and answer.
        answer: Of the answer.
    """
    return key_values(model, tokens) + 2 * _FLOAT32 * answer * model.config.get_text_config().vocab_size


def key_values(model: Any, tokens: int) -> int:
    """Bytes of one sample's keys and values in every layer of the language model."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return 2 * config.num_hidden_layers * kept * size * tokens * model.dtype.itemsize


class Graph:
    """Counts what autograd keeps for the backward pass while the context lasts: each piece of memory once, without weights.

    Args:
        model: Whose weights do not count.
    """

    def __init__(self, model: Any) -> None:
        import torch

        self._own = {p.untyped_storage().data_ptr() for p in model.parameters() if p.device.type != "meta"}
        self._kept: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda x: x)

    def _keep(self, x: torch.Tensor) -> torch.Tensor:
        place = x.untyped_storage()
        if place.data_ptr() not in self._own:
            self._kept[place.data_ptr()] = max(self._kept.get(place.data_ptr(), 0), place.nbytes())
        return x

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(self._kept.values())

    def __enter__(self) -> Graph:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)  # pyright: ignore[reportArgumentType]
