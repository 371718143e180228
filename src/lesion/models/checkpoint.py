"""The files of a model in a local folder, looked at before any library reads them.

A library that loads a model fills in what it does not find with random numbers, and unpickles what it finds as a pickle. Both
would be a study of another model than the one that was asked for, or worse.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lesion.core.errors import ModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MOST_LAYERS = 10_000
"""More than any model has; building one with millions of layers, as a damaged configuration may ask for, has no end."""
SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers")
"""Entries of a configuration, or of a part of it, without which there is no model."""
_HEADER = 100_000_000
"""Bytes of a safetensors header, as the format limits it."""


def check_folder(name: str, folder: Path) -> None:
    """Whether a folder holds a model's configuration.

    Raises:
        ModelError: It does not; the message says what else it may be.
    """
    if (folder / "config.json").is_file():
        return
    hint = "expected a folder that save_pretrained wrote"
    if (folder / "adapter_config.json").is_file():
        hint = "it is an adapter; expected a whole model: merge the adapter into its base (merge_and_unload) and save that"
    elif ggufs := sorted(path.name for path in folder.glob("*.gguf")):
        hint = f"it holds a GGUF file; name that file itself: {folder / ggufs[0]}"
    raise ModelError(f"{name} has no config.json; {hint}")


def check_config(name: str, config: Any) -> None:
    """Whether a configuration describes a model that can be built.

    Raises:
        ModelError: It has more layers than any model, or none, or no width.
    """
    for key, value in _numbers(config.to_dict()):
        if key in SIZES and value < 1:
            raise ModelError(f"the config of {name!r} has {key} {value:,}; expected at least 1: is it damaged?")
        if key.endswith(("layers", "depth")) and value > MOST_LAYERS:
            raise ModelError(f"the config of {name!r} has {key} {value:,}; expected at most {MOST_LAYERS:,}: is it damaged?")


def _numbers(config: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield str(key), value


def check_weights(name: str, folder: Path) -> None:
    """Whether all weight files are there, whole, and safetensors.

    Raises:
        ModelError: They are not.
    """
    if (folder / WEIGHTS).is_file():
        _tensors(folder / WEIGHTS)
        return
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ModelError(
                f"{name} has its weights as a pickle ({pickles[0]}), which can run code when it is loaded, and is never loaded "
                f"here; expected {WEIGHTS}: load it where you trust it, and save it anew with save_pretrained"
            )
        raise ModelError(f"{name} has no weights; expected {WEIGHTS}, or {INDEX} with the files that it names")
    placed = _index(folder / INDEX)
    shards = sorted(set(placed.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{folder / INDEX} names {shard!r}; expected safetensors files beside it: copy or download it anew"
            )
    gone = [shard for shard in shards if not (folder / shard).is_file()]
    if gone:
        raise ModelError(
            f"{name} lacks {len(gone)} of its {len(shards)} weight files, such as {gone[0]}; copy or download it anew"
        )
    held = {shard: _tensors(folder / shard) for shard in shards}
    lost = [tensor for tensor, shard in placed.items() if tensor not in held[shard]]
    if lost:
        raise ModelError(f"{folder / placed[lost[0]]} lacks {lost[0]}, which {INDEX} says is in it; copy or download it anew")


def _index(file: Path) -> dict[str, str]:
    """Tensor -> the file that holds it."""
    try:
        placed = json.loads(file.read_bytes())["weight_map"]
        if not placed or not all(isinstance(shard, str) for shard in placed.values()):
            raise ValueError("no file is named")
        return dict(placed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"{file} is damaged: expected a JSON object with a weight_map; copy or download it anew") from None


def _tensors(file: Path) -> set[str]:
    """The tensors of a safetensors file, from its header, which must end where the file does."""
    size = 0
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size - 8, _HEADER):
                raise ValueError("its header is cut off")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        end = max((int(about["data_offsets"][1]) for about in header.values()), default=0)
        if end != size - 8 - length:
            raise ValueError("its header tells of another length")
        return set(header)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}; mend that, or download it anew") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        why = f"{error}" if isinstance(error, ValueError) and "header" in str(error) else "it is no safetensors file"
        raise ModelError(f"{file} is damaged or cut off after {size:,} bytes ({why}); copy or download it anew") from None


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Whether every weight of a loaded model came from its files.

    Args:
        name: The model's.
        info: What ``from_pretrained`` tells with ``output_loading_info``.

    Raises:
        ModelError: Some were made up.
    """
    if info["mismatched_keys"]:
        weight, found, wanted = sorted(info["mismatched_keys"], key=str)[0]
        raise ModelError(
            f"{name} has {weight} of shape {list(found)}; expected {list(wanted)}, by its config.json; copy or download it anew"
        )
    if info["missing_keys"]:
        count, one = len(info["missing_keys"]), min(info["missing_keys"])
        raise ModelError(
            f"{name} lacks {count:,} of the weights that its config.json asks for, such as {one}; copy or download it anew"
        )
