"""The linearised model: the same forward pass, and a backward pass that follows the rules of relevance propagation.

Layer-wise relevance propagation for transformers, as relevance patching (RelP, arXiv 2508.21258) uses it. Gradient times
activation is then the relevance of a value. The rules:

==============  ========================================================================================================
norms           the number that a token is divided by is a constant (LN-rule)
activations     ``act(x)`` is ``x * c`` with the constant ``c = act(x) / x`` (identity rule); a unit at 0 passes nothing on
gated products  each of ``act(gate)`` and ``up`` is given half of the gradient (half rule)
attention       the pattern is a constant: queries and keys are given no gradient (AH-rule)
linear layers   as they are
==============  ========================================================================================================

Hooks replace a module's output ``y`` by ``y.detach() + (z - z.detach())``: equal to ``y`` bit for bit, with the gradient of
``z``. What is not a module of its own cannot be hooked. Products other than those of gated feed-forward networks, and
functions between modules (a soft cap on the logits), are differentiated as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError
from lesion.hooks.attach import removal
from lesion.models import feedforward
from lesion.models.feedforward import fans

if TYPE_CHECKING:
    import torch
    from torch import nn

    OutputHook = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]

QUERY_AND_KEY = (("q_proj", "k_proj"), ("query", "key"), ("q", "k"))
"""What the two projections of attention are called whose product is the pattern."""
_ATTENTION = re.compile(r"(Attention|Attn)$")
_NORM = re.compile(r"Norm")
_NO_FUNCTION_OF_ONE = re.compile(r"(GLU|Softm.*|LogSoftmax|MultiheadAttention)$")
"""Modules that torch keeps among the activation functions, and whose values depend on several inputs."""


@contextmanager
def linearised(model: nn.Module) -> Iterator[None]:
    """Makes the backward passes of a frozen model linear while the context lasts; forward passes give what they gave.

    Attach what captures gradients before this, so that a gradient is captured before half of it is taken.

    A module of a make that the rules do not know is refused when a gradient would pass through it, and not before: an image
    encoder in front of the first captured site may be of any make.

    Raises:
        ModelError: A gradient would pass through such a module: attention with queries and keys in one projection, an
            activation function or a norm that is no module, experts.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    with ExitStack() as stack:
        for module in modules.values():
            hook = _output_rule(module)
            if hook is not None:
                stack.callback(removal(module.register_forward_hook(hook, with_kwargs=True)))
        for module, rule in (*((m, _constant) for m in _patterns(modules)), *((m, _half) for m in _factors(modules))):
            stack.callback(removal(module.register_forward_hook(rule, with_kwargs=True)))
        for path, why in refused(modules).items():
            refuse = _refuse(path, modules[path], why)
            stack.callback(removal(modules[path].register_forward_pre_hook(refuse, with_kwargs=True)))
        for network in feedforward.networks(modules):
            parent = modules[network.parent]
            if not any(is_activation(m) for m in parent.modules()):
                refuse = _refuse(network.parent, parent, "its activation function is not a module")
                # Where the gradient comes out: what is captured may be the in-projection itself.
                for name in (n for n in network.names.all if n != network.names.out):
                    stack.callback(removal(modules[network.path(name)].register_forward_hook(refuse)))
        yield


def refused(modules: dict[str, Any]) -> dict[str, str]:
    """Path of every module whose input may have no gradient, with the reason.

    Args:
        modules: ``dict(model.named_modules())``.
    """
    why: dict[str, str] = {}
    for path, module in modules.items():
        weights = [p for p in module.parameters(recurse=False) if p.ndim > 1]
        if _ATTENTION.search(type(module).__name__) and _pattern(module) is None and (weights or _has_projections(module)):
            why[path] = "its queries and keys are not projections of their own"
        elif weights and not _is_known(module):
            why[path] = "what it does with its weights is not known"
        elif _is_layer(path, modules) and not any(_NORM.search(type(m).__name__) for m in module.modules()):
            why[path] = "it has no norm that is a module"
    return why


def is_activation(module: Any) -> bool:
    """Whether a module is an activation function of torch or transformers."""
    from torch.nn.modules import activation
    from transformers import activations

    kind = type(module)
    return kind.__module__ in (activation.__name__, activations.__name__) and not _NO_FUNCTION_OF_ONE.match(kind.__name__)


# -- the rules -------------------------------------------------------------------------------------------------------------
def _output_rule(module: Any) -> OutputHook | None:
    if _NORM.search(type(module).__name__) and not list(module.children()):
        return _norm
    return _activation if is_activation(module) else None


def _norm(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> Any:
    """The divisor is a constant. The gain is the weight, or one more than it (Gemma); which of them, the output says."""
    import torch

    x = _first(args, kwargs)
    if not x.requires_grad:
        return None
    up = x if x.dtype == torch.float64 else x.float()
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    eps = next((e for name in ("variance_epsilon", "eps") if isinstance(e := getattr(module, name, None), float)), 0.0)
    gains = [1.0] if weight is None else [weight.to(up.dtype), weight.to(up.dtype) + 1]
    shift = 0.0 if bias is None else bias.to(up.dtype)
    rounding = 0.02 if y.dtype.itemsize < 4 else 1e-3
    for centred in (up, up - up.mean(-1, keepdim=True)):
        spread = (centred.detach().pow(2).mean(-1, keepdim=True) + eps).sqrt()
        for gain in gains:
            z = centred / spread * gain + shift
            if _size(z - y) <= rounding * _size(y):
                return _with_gradient_of(z, y)
    raise ModelError(f"relevance cannot pass a {_named(module)}: it is no norm that lesion knows; choose another scorer")


def _activation(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> Any:
    """A multiple of its input."""
    import torch

    x = _first(args, kwargs)
    if not x.requires_grad:
        return None
    # As the module is called, its own hooks would run.
    if module.forward(x.detach().new_zeros(1)).abs().max() != 0:
        raise ModelError(f"relevance cannot pass a {_named(module)}: its value at 0 is not 0; choose another scorer")
    values = x.detach()
    ratio = torch.where(values == 0, 0, y.detach() / torch.where(values == 0, 1, values))
    return _with_gradient_of(x * ratio, y)


def _constant(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> Any:
    return y.detach()


def _half(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> Any:
    return _with_gradient_of(0.5 * y, y) if y.requires_grad else None


def _size(x: torch.Tensor) -> float:
    """Largest finite size of an entry: a sample that overflows does not decide which norm this is."""
    return float(x.detach().abs().nan_to_num(nan=0.0, posinf=0.0).max())


def _with_gradient_of(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y.detach() + (z - z.detach()).to(y.dtype)


# -- what a module is --------------------------------------------------------------------------------------------------------
def _patterns(modules: dict[str, Any]) -> Iterator[Any]:
    """The projections to queries and keys."""
    for module in modules.values():
        yield from _pattern(module) or ()


def _pattern(module: Any) -> tuple[Any, Any] | None:
    for query, key in QUERY_AND_KEY:
        pair = getattr(module, query, None), getattr(module, key, None)
        if all(fans(projection) is not None for projection in pair):
            return pair
    return None


def _factors(modules: dict[str, Any]) -> Iterator[Any]:
    """The in-projections of gated feed-forward networks; of a fused one, the projection that holds both."""
    for network in feedforward.networks(modules):
        if network.names.gate is not None:
            yield modules[network.path(network.names.gate)]
        if network.names.gate is not None or network.names.fused:
            yield modules[network.path(network.names.up)]


def _has_projections(module: Any) -> bool:
    return any(fans(child) is not None for child in module.children())


def _is_known(module: Any) -> bool:
    from torch.nn import Embedding
    from torch.nn.modules.conv import _ConvNd

    return fans(module) is not None or isinstance(module, Embedding | _ConvNd) or bool(_NORM.search(type(module).__name__))


def _is_layer(path: str, modules: dict[str, Any]) -> bool:
    """Whether a module is an entry of a list of modules that attends: a layer of a transformer."""
    from torch.nn import ModuleList

    parent, _, name = path.rpartition(".")
    listed = name.isdigit() and isinstance(modules.get(parent), ModuleList)
    return listed and any(_ATTENTION.search(type(m).__name__) for m in modules[path].children())


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else next(iter(kwargs.values()))


def _refuse(path: str, refused: Any, why: str) -> Callable[..., None]:
    def check(_: Any, args: Any, given: Any) -> None:
        tensors = (*args, *given.values()) if isinstance(given, dict) else (given,)
        if any(getattr(tensor, "requires_grad", False) for tensor in tensors):
            raise ModelError(f"relevance cannot pass {path} ({_named(refused)}): {why}; choose another scorer")

    return check


def _named(module: Any) -> str:
    return type(module).__name__
