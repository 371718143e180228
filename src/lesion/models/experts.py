"""Mixtures of experts: feed-forward networks of which a router shows every token a few (the experts).

transformers keeps the experts of a layer in one module with stacked weights, and has that module computed by a registered
function. lesion registers one that computes what the module's own ``forward`` does, expert by expert, and shows gate, up,
hidden and down of the tokens that an expert was given to whoever attached to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lesion.core.shared import Shared
from lesion.models.placement import fetch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lesion.core.sites import Role

IMPLEMENTATION = "lesion"
"""What ``config._experts_implementation`` is while lesion's function computes the experts."""


@dataclass(frozen=True)
class Routed:
    """Which of a pass's tokens an expert was given.

    Attributes:
        tokens: int64 ``[routed]``, ascending: places in the batch's rows, laid one after the other.
        total: Number of tokens in all rows.
    """

    tokens: torch.Tensor
    total: int

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """Values of the routed tokens ``[routed, width]`` among those of all tokens ``[total, width]``; 0 elsewhere."""
        return x.new_zeros(self.total, x.shape[-1]).index_copy(0, self.tokens, x)

    def rows(self, count: int) -> torch.Tensor:
        """Which of the batch's ``count`` rows each routed token is in, int64 ``[routed]``."""
        return self.tokens // (self.total // count)


ExpertHook = Callable[["torch.Tensor", Routed], "torch.Tensor | None"]
"""Given the values of the tokens that an expert was given, ``[routed, width]``; returns others, or None to leave them."""


@dataclass(frozen=True)
class ExpertSizes:
    """The sizes of a layer's experts.

    Attributes:
        experts: How many.
        hidden: Intermediate units of each.
        width: Output channels of each.
        gated: Whether they have ``gate`` and ``up``.
    """

    experts: int
    hidden: int
    width: int
    gated: bool


def layout(module: Any) -> ExpertSizes | None:
    """The sizes of an experts module of transformers' own make; None for any other module, and for quantised experts."""
    weight: Any = getattr(module, "down_proj", None)
    if not hasattr(module, "is_concatenated") or getattr(weight, "ndim", 0) != 3 or not _plain(weight):
        return None
    experts, first, second = weight.shape
    width, hidden = (second, first) if module.is_transposed else (first, second)
    return ExpertSizes(experts, hidden, width, module.has_gate)


def mixtures(modules: Mapping[str, Any]) -> Iterator[tuple[str, ExpertSizes]]:
    """Path and sizes of every experts module.

    Args:
        modules: ``dict(model.named_modules())``.
    """
    for path, module in modules.items():
        sizes = layout(module)
        if sizes is not None:
            yield path, sizes


def _plain(weight: Any) -> bool:
    import torch

    return weight.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def written(module: Any, expert: int) -> torch.Tensor:
    """What each hidden unit of an expert writes for a unit of its activation, float32 ``[channels, hidden]``."""
    weight = fetch(module, "down_proj")[expert].detach().float()
    return weight.T if module.is_transposed else weight


# -- whose function computes the experts -----------------------------------------------------------------------------------
def adopt(model: nn.Module) -> list[tuple[Any, str | None]]:
    """Has lesion's function compute a model's experts from now on.

    Returns:
        The configurations that were changed, with what they held before.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _forward)
    modules: list[Any] = [m for m in model.modules() if layout(m) is not None]
    configs: dict[int, Any] = {id(m.config): m.config for m in modules}
    before = [(config, config._experts_implementation) for config in configs.values()]
    for config, former in before:
        if former != IMPLEMENTATION:
            config._experts_implementation = IMPLEMENTATION
    return before


def _adopt(model: nn.Module) -> Callable[[], None]:
    before = adopt(model)

    def undo() -> None:
        for config, former in before:
            if former != IMPLEMENTATION:
                config._experts_implementation = former

    return undo


adopted: Shared[nn.Module] = Shared(_adopt)
""":func:`adopt` while a context lasts."""


# -- attaching -------------------------------------------------------------------------------------------------------------
_ACTS: WeakKeyDictionary[Any, dict[tuple[int, str], list[ExpertHook]]] = WeakKeyDictionary()
"""Experts module -> (expert, role) -> who attached, in the order in which they came."""


@dataclass(frozen=True)
class Handle:
    """Takes away what :func:`attach` added."""

    module: Any
    at: tuple[int, str]
    act: ExpertHook

    def remove(self) -> None:
        there = _ACTS[self.module]
        there[self.at].remove(self.act)
        if not there[self.at]:
            del there[self.at]
        if not there:
            del _ACTS[self.module]


def attach(module: nn.Module, expert: int, role: Role, act: ExpertHook) -> Handle:
    """Shows ``act`` one expert's values in every pass in which it is given a token, until the handle is removed."""
    _ACTS.setdefault(module, {}).setdefault((expert, role), []).append(act)
    return Handle(module, (expert, role), act)


def _forward(self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
    """What an experts module computes; the arguments are those of its own ``forward``.

    Args:
        self: The module.
        hidden_states: ``[tokens, width]``.
        top_k_index: The experts that each token is given to, int64 ``[tokens, experts a token]``.
        top_k_weights: What their outputs are multiplied by, likewise.
    """
    import torch

    acts = _ACTS.get(self, {})
    output = torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        if expert >= len(self.down_proj):
            continue  # an expert of another process
        tokens, slots = torch.where(top_k_index == expert)
        show = _Show(acts, expert, Routed(tokens, len(hidden_states)))
        inner = _linear(self, "gate_up_proj" if self.has_gate else "up_proj", expert, hidden_states[tokens])
        hidden = self._apply_gate(show.gate_and_up(self, inner)) if self.has_gate else self.act_fn(inner)
        written = show("down", _linear(self, "down_proj", expert, show("hidden", hidden)))
        if self.has_post_expert_norm:
            written = self.post_expert_norm(written)
        weighted = written * top_k_weights[tokens, slots, None]
        output.index_add_(0, tokens, weighted.to(output.dtype))
    return output


class _Show:
    """Shows an expert's values to whoever attached, and goes on with what they return."""

    def __init__(self, acts: dict[tuple[int, str], list[ExpertHook]], expert: int, routed: Routed) -> None:
        self._acts, self._expert, self._routed = acts, expert, routed

    def __call__(self, role: str, x: torch.Tensor) -> torch.Tensor:
        for act in self._acts.get((self._expert, role), ()):
            changed = act(x, self._routed)
            x = x if changed is None else changed
        return x

    def gate_and_up(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        """The fused projection's output, whose halves are two roles; left as it is where nobody asks for them."""
        import torch

        if not any((self._expert, role) in self._acts for role in ("gate", "up")):
            return x
        if module.is_concatenated:
            gate, up = x.chunk(2, dim=-1)
            return torch.cat([self("gate", gate), self("up", up)], dim=-1)
        return torch.stack([self("gate", x[..., ::2]), self("up", x[..., 1::2])], dim=-1).flatten(-2)


def _linear(module: Any, name: str, expert: int, x: torch.Tensor) -> torch.Tensor:
    import torch

    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return torch.nn.functional.linear(x, weight.T if module.is_transposed else weight, bias)
