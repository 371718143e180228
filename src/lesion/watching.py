"""Watching: hooks that read activations and gradients at sites, and change nothing of what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lesion.errors import ModelError
from lesion.sites import Site

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient and dropout is off while the context lasts; then everything is as it was."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        for module in training:
            module.training = False
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def watch(model: nn.Module, sites: Iterable[Site], see: Callable[[Site, torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Calls ``see(site, activation, gradient)`` during the backward pass, for every site that a gradient reaches.

    With every weight frozen nothing asks for a gradient, so the first site on each path is made a leaf of the graph;
    what comes before it (the embeddings, the vision tower when no vision site is watched) is not differentiated.

    Raises:
        ModelError: The model has no module of a site's name.
    """

    def tap(site: Site, x: torch.Tensor) -> torch.Tensor:
        if not x.requires_grad:
            x = x.detach().requires_grad_(True)
        kept = _own(site, x.detach())
        x.register_hook(lambda gradient: see(site, kept, _own(site, gradient.detach())))
        return x

    def on_input(site: Site) -> Any:
        return lambda _, args: (tap(site, args[0]), *args[1:])

    def on_output(site: Site) -> Any:
        return lambda _, args, output: tap(site, output)

    with _hooks(model, sites, on_input, on_output):
        yield


@contextmanager
def read(model: nn.Module, sites: Iterable[Site], see: Callable[[Site, torch.Tensor], None]) -> Iterator[None]:
    """Calls ``see(site, activation)`` during the forward pass, and changes nothing.

    Raises:
        ModelError: The model has no module of a site's name.
    """

    def on_input(site: Site) -> Any:
        return lambda _, args: see(site, _own(site, args[0]))

    def on_output(site: Site) -> Any:
        return lambda _, args, output: see(site, _own(site, output))

    with _hooks(model, sites, on_input, on_output):
        yield


def _own(site: Site, x: torch.Tensor) -> torch.Tensor:
    """The site's part of its module's tensor."""
    return x if site.of is None else x[..., site.offset : site.offset + site.width]


@contextmanager
def _hooks(model: nn.Module, sites: Iterable[Site], on_input: Any, on_output: Any) -> Iterator[None]:
    """A hook on each site's module, before or after it; removed on every path."""
    modules: dict[str, Any] = dict(model.named_modules())
    with ExitStack() as hooks:
        for site in sites:
            if site.path not in modules:
                raise ModelError(f"the model has no module {site.path!r}")
            module = modules[site.path]
            register = module.register_forward_pre_hook if site.reads_input else module.register_forward_hook
            hooks.callback(register(on_input(site) if site.reads_input else on_output(site)).remove)
        yield
