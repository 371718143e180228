"""What a feed-forward network looks like in a module tree: the names of its projections, and how its widths must fit.

A name is not enough (attention has an ``o_proj`` too) and neither are widths alone; so both must fit, and what looks like
a feed-forward network but has names that are not listed here is refused by name (:func:`unknown`), never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError
from lesion.models.placement import fetch

if TYPE_CHECKING:
    import torch

    from lesion.core.sites import Role


@dataclass(frozen=True)
class Names:
    """Names of a network's projections below its parent module.

    Attributes:
        out: The out-projection.
        up: The in-projection, of a gated network the one that is not passed through the activation function.
        gate: None in an ungated network.
        fused: ``up`` holds the two in-projections of a gated network one after the other, and has twice the fan-out: in
            which order. Empty where it does not.
    """

    out: str
    up: str
    gate: str | None = None
    fused: tuple[Role, ...] = ()

    @property
    def all(self) -> list[str]:
        return [name for name in (self.gate, self.up, self.out) if name is not None]


NAMES = (
    Names("down_proj", "up_proj", "gate_proj"),  # Llama and most others
    Names("down_proj", "gate_up_proj", fused=("gate", "up")),  # Phi-3
    Names("w2", "w3", "w1"),  # Llama's own names
    Names("wo", "wi_1", "wi_0"),  # gated T5
    Names("wo", "wi"),  # T5
    Names("down_proj", "up_proj"),
    Names("fc2", "fc1"),  # CLIP, SigLIP, EVA, OPT
    Names("linear_fc2", "linear_fc1"),  # Qwen3-VL
    Names("c_proj", "c_fc"),  # GPT-2
    Names("output_query.dense", "intermediate_query.dense"),  # Q-Former, the query tokens' bank
    Names("output.dense", "intermediate.dense"),  # BERT, and the Q-Former's bank for text tokens
    Names("linear_2", "linear_1"),  # LLaVA's projector
    Names("linear_2", "linear_1", fused=("up", "gate")),  # Aya Vision's and Cohere's projector
    Names("2", "0"),  # Qwen's merger, a Sequential with the activation function in its midst
    Names("3", "1"),  # InternVL's projector, which starts with a norm
)


_AT_A_TIME = 512
"""Inputs of a quantised layer that are asked for together."""


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward network.

    Attributes:
        parent: Path of its parent module; ``""`` for the model itself.
        names: What its projections are called.
        hidden: Number of intermediate units.
        width: Number of output channels.
    """

    parent: str
    names: Names
    hidden: int
    width: int

    def path(self, name: str) -> str:
        return f"{self.parent}.{name}" if self.parent else name


def fans(module: Any) -> tuple[int, int] | None:
    """``(fan-in, fan-out)`` of a linear layer of any make (torch's, a quantised one, GPT-2's Conv1D); None for others."""
    if module is None:
        return None
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.in_features), int(module.out_features)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return int(module.weight.shape[0]), int(module.nf)
    return None


def networks(modules: Mapping[str, Any]) -> Iterator[FeedForward]:
    """Every feed-forward network of a model.

    Args:
        modules: ``dict(model.named_modules())``.

    Raises:
        ModelError: A gated network whose widths contradict each other.
    """
    for parent in modules:
        _check_gated(modules, parent)
        taken: set[str] = set()
        for names in NAMES:
            network = _fit(modules, parent, names)
            if network is not None and names.out not in taken:
                taken.add(names.out)
                yield network


def _check_gated(modules: Mapping[str, Any], parent: str) -> None:
    """Refuses a gated network with the usual names whose widths contradict each other, lest it pass for an ungated one."""
    gate, up, down = (fans(modules.get(f"{parent}.{n}" if parent else n)) for n in ("gate_proj", "up_proj", "down_proj"))
    if gate is None or up is None or down is None:
        return
    widths = gate[1], up[1], down[0]
    if len(set(widths)) > 1:
        raise ModelError(f"the projections of {parent} do not fit together: widths {widths}, expected them to be equal")


def _fit(modules: Mapping[str, Any], parent: str, names: Names) -> FeedForward | None:
    def size(name: str | None) -> tuple[int, int] | None:
        return None if name is None else fans(modules.get(f"{parent}.{name}" if parent else name))

    out, up, gate = size(names.out), size(names.up), size(names.gate)
    if out is None or up is None or (names.gate is not None and gate is None):
        return None
    if up[1] != out[0] * (2 if names.fused else 1) or (gate is not None and gate != up):
        return None
    return FeedForward(parent, names, out[0], out[1])


def columns(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """A linear layer's weight as ``[fan-out, fan-in]``: a column is what one input writes. A view, not a copy."""
    return weight.T if type(module).__name__ == "Conv1D" else weight


def written(module: Any) -> torch.Tensor:
    """What a linear layer of any make writes for a unit of each of its inputs, float32 ``[fan-out, fan-in]``.

    A quantised layer keeps its weight in a form of its own, so it is asked: its output for each input by itself.
    """
    import torch

    known = fans(module)
    weight = columns(module, fetch(module, "weight"))
    if weight.is_floating_point() and known is not None and tuple(weight.shape) == known[::-1]:
        return weight.detach().float()
    fan_in = (known or (0, 0))[0]
    outputs = []
    with torch.no_grad():
        bias = getattr(module, "bias", None)
        for rows in torch.eye(fan_in, device=weight.device).split(_AT_A_TIME):
            output = module(rows).float()
            outputs.append(output if bias is None else output - bias.float())
    return torch.cat(outputs).T


def linear_layers(modules: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Path and fan-out of every linear layer."""
    for path, module in modules.items():
        sizes = fans(module)
        if sizes is not None:
            yield path, sizes[1]


_LIKELY = re.compile(r"(MLP|Mlp|FeedForward|FFN|Experts|ActDense)$")


def unknown(modules: Mapping[str, Any], known: set[str]) -> list[str]:
    """Paths of modules that are feed-forward networks by the name of their class, and of which nothing was found.

    Args:
        modules: ``dict(model.named_modules())``.
        known: Paths of parents whose networks were found.
    """
    suspects = []
    for path, module in modules.items():
        if not _LIKELY.search(type(module).__name__):
            continue
        owns = any(p.ndim > 1 for p in module.parameters(recurse=False)) or any(
            fans(child) is not None for child in module.children()
        )
        if owns and not any(p == path or p.startswith(f"{path}.") for p in known):
            suspects.append(path)
    return suspects
