"""Where a model's weights are: on one device, on several, or offloaded (accelerate), to be fetched when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn


def run_device(model: Any) -> torch.device:
    """The device that inputs go to. An offloaded model is on none itself, and runs where its hooks say."""
    import torch

    if model.device.type != "meta":
        return model.device
    for module in model.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return model.device


def fetch(module: nn.Module, name: str) -> torch.Tensor:
    """A module's own parameter or buffer, wherever it is kept.

    Raises:
        ModelError: It is on no device, and no hook of accelerate's knows where it is.
    """
    value: torch.Tensor = getattr(module, name)
    if value.device.type != "meta":
        return value
    outer: Any = getattr(module, "_hf_hook", None)
    for hook in getattr(outer, "hooks", [outer]):
        kept = getattr(hook, "weights_map", None)
        if kept is not None:
            return kept[name]
    raise ModelError(f"{name} of a {type(module).__name__} has no values: it is on the meta device, and not offloaded")


def tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every entry of the state dict by ascending name, one fetched at a time."""
    modules, state = dict(model.named_modules()), model.state_dict()
    for name in sorted(state):
        path, _, attribute = name.rpartition(".")
        if not hasattr(state[name], "device"):
            continue  # a quantised layer's note to itself
        yield name, fetch(modules[path], attribute) if state[name].device.type == "meta" else state[name]
