"""Which model it is: a hash of every weight, computed where the weights are.

Two sums of all 64-bit words of a tensor, each word scrambled and multiplied by an odd number that depends on its place, modulo
2^64 (multilinear hashing, as in Lemire and Kaser, arXiv 1202.4961). Whatever single entry is changed, both sums change for
sure; other changes, such as that of two signs, are missed with a probability of about 2^-64 or less. It finds edits; it is no
protection against somebody who constructs a model to have another's hash. Sums commute, so a device may add in any order.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError
from lesion.core.files import write_text
from lesion.core.identity import Identity
from lesion.models.placement import tensors

if TYPE_CHECKING:
    import torch

_WORDS = 2**18
"""Words that are hashed at a time: what is read once stays in the processor's cache."""
CACHE_FILE = ".lesion-identity.json"
CACHED_FROM = 2**28
"""Bytes of weight files from which on the hash is kept beside the checkpoint; smaller ones take less than a second."""
NO_BEHAVIOUR = frozenset({
    "architectures", "dtype", "lesion_edits", "name_or_path", "quantization_config", "torch_dtype", "transformers_version",
    "use_cache",
})  # fmt: skip
"""Entries of a configuration that do not change what the model computes from its weights."""
EDITS = "lesion_edits"
"""Attribute of a model's configuration that lists what was done to its weights."""


def identity_of(model: Any, name: str, checkpoint: str | None = None) -> Identity:
    """Hashes a model.

    Args:
        model: All its parameters and buffers are read, offloaded ones too.
        name: For people.
        checkpoint: The folder that the weights were just loaded from, unchanged since: a hash that was kept there is taken,
            if the files are as they were. None for a model that may have been changed.

    Raises:
        ModelError: A tensor is on no device.
    """
    config = model.config
    revision, edits = getattr(config, "_commit_hash", None), tuple(getattr(config, EDITS, None) or ())
    key = _cache_key(model, checkpoint) if checkpoint else None
    weights = _cached(checkpoint, key) if checkpoint and key else None
    if weights is None:
        weights = hash_weights(model)
        if checkpoint and key:
            _keep(checkpoint, key, weights)
    return Identity(name, weights, revision, str(model.dtype).removeprefix("torch."), edits, hash_config(config))


def hash_config(config: Any) -> str:
    """Hash of what a configuration says of the computation, 16 hexadecimal digits."""
    text = json.dumps(_behaviour(config.to_dict()), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _behaviour(value: Any) -> Any:
    """Without names, versions, dtypes and implementations, which say where a model came from and how it is run."""
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if not str(k).startswith("_") and k not in NO_BEHAVIOUR}
        return {k: _behaviour(v) for k, v in kept.items()}
    return [_behaviour(v) for v in value] if isinstance(value, list | tuple) else value


def hash_weights(model: Any) -> str:
    """Hash of names, shapes, dtypes and values of the whole state, 32 hexadecimal digits."""
    text = hashlib.sha256()
    # A tensor that has two names (tied embeddings) is read once. One that was fetched from a disk is gone after its turn, and
    # another may then stand at its address: such an entry is dead.
    known: dict[tuple[Any, ...], tuple[weakref.ref[torch.Tensor], tuple[int, int]]] = {}
    for name, tensor in tensors(model):
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if place not in known or known[place][0]() is None:
            known[place] = weakref.ref(tensor), hash_tensor(tensor)
        text.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}{known[place][1]}".encode())
    return text.hexdigest()[:32]


def hash_tensor(tensor: torch.Tensor) -> tuple[int, int]:
    """The two sums of a tensor's bytes, each 0 to 2^64 - 1; the same on every device."""
    import torch

    if tensor.device.type == "meta":
        raise ModelError("a weight is on the meta device and has no values; expected a loaded model")
    data = tensor.detach().contiguous().reshape(-1)
    if data.numel() == 1:
        data = data.as_strided((1,), (1,), data.storage_offset())  # one entry is contiguous whatever its stride
    data = data.view(torch.uint8)
    rest = data.numel() % 8
    if rest:
        data = torch.nn.functional.pad(data, (0, 8 - rest))
    elif data.storage_offset() % 8:
        data = data.clone()  # a view of whole words must begin at one
    words = data.view(torch.int64)
    first, second = _factors(words.device)
    totals = [0, 0]
    for number, block in enumerate(map(_scrambled, words.split(_WORDS)), start=1):
        for i, factors in enumerate((first, second)):
            block_sum = int((block * factors[: len(block)]).sum())
            # Odd, and another for every block, so that blocks cannot be exchanged.
            totals[i] = (totals[i] + block_sum * (2 * number + 1) * (0x9E3779B97F4A7C15 if i else 1)) % 2**64
    return totals[0], totals[1]


def _scrambled(words: torch.Tensor) -> torch.Tensor:
    """Other words for other words, whose low bits depend on the high ones.

    The highest bit, which is the sign of a float, would be 2^63 times an odd number in every sum, and that is 2^63: two changed
    signs would cancel.
    """
    import torch

    mixed = words * 0x4F1BBCDCBFA53E0B
    halves = mixed.view(torch.int32).view(-1, 2)  # [words, low and high]
    halves[:, 0] ^= halves[:, 1]
    return mixed


_FACTORS: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}


def _factors(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Odd numbers, the same on every machine, int64 ``[_WORDS]``."""
    import numpy as np
    import torch

    if str(device) not in _FACTORS:
        places = np.arange(2 * _WORDS, dtype=np.uint64)
        with np.errstate(over="ignore"):  # splitmix64
            x = (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            odd = ((x ^ (x >> np.uint64(31))) | np.uint64(1)).view(np.int64)
        _FACTORS[str(device)] = (
            torch.from_numpy(odd[:_WORDS].copy()).to(device), torch.from_numpy(odd[_WORDS:].copy()).to(device)
        )  # fmt: skip
    return _FACTORS[str(device)]


# -- kept beside the checkpoint --------------------------------------------------------------------------------------------
def _cache_key(model: Any, checkpoint: str) -> dict[str, Any] | None:
    """What a kept hash depends on: the weight files by name, size and time, and how they were loaded; None for small ones."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return None
    weights = (".safetensors", ".bin", ".gguf")
    files = sorted(p for p in folder.iterdir() if (p.suffix in weights or p.name == "config.json") and p.is_file())
    stats = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in files}
    if sum(size for size, _ in stats.values()) < CACHED_FROM:
        return None
    loaded = f"{type(model).__name__} {model.dtype} {getattr(model.config, 'quantization_config', None)}"
    return {"files": stats, "loaded": loaded}


def _cached(checkpoint: str, key: Mapping[str, Any]) -> str | None:
    try:
        kept = json.loads((Path(checkpoint) / CACHE_FILE).read_text())
        return str(kept["weights"]) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(checkpoint: str, key: Mapping[str, Any], weights: str) -> None:
    if os.access(checkpoint, os.W_OK):
        write_text(Path(checkpoint) / CACHE_FILE, json.dumps({"key": key, "weights": weights}) + "\n")
