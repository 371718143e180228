"""A packet: JSON and arrays in one piece of bytes, for other processes. It is a safetensors file, and no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_HEAD = "lesion"


def pack(head: Any, arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Makes a packet.

    Args:
        head: What JSON can hold; numbers that are not finite too.
        arrays: By name.
    """
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(a) for name, a in (arrays or {}).items()}, metadata={_HEAD: json.dumps(head)})


def unpack(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """What :func:`pack` was given.

    Raises:
        ValueError: It is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        return json.loads(about[_HEAD]), arrays
    except (KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"no packet: {error}") from None
