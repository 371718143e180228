"""Watching: hooks that read activations and gradients at sites, and change nothing of what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lesion.hooks import Act, attached
from lesion.models.experts import Routed
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

    def tap(site: Site) -> Act:
        def on(x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
            if not x.requires_grad:
                x = x.detach().requires_grad_(True)
            kept = _own(site, x.detach(), routed)
            x.register_hook(lambda gradient: see(site, kept(), _own(site, gradient.detach(), routed)()))
            return x

        return on

    with attached(model, [(site, tap(site)) for site in sites]):
        yield


@contextmanager
def read(model: nn.Module, sites: Iterable[Site], see: Callable[[Site, torch.Tensor], None]) -> Iterator[None]:
    """Calls ``see(site, activation)`` during the forward pass, and changes nothing.

    Raises:
        ModelError: The model has no module of a site's name.
    """

    def look(site: Site) -> Act:
        return lambda x, routed: see(site, _own(site, x, routed)())

    with attached(model, [(site, look(site)) for site in sites]):
        yield


def _own(site: Site, x: torch.Tensor, routed: Routed | None) -> Callable[[], torch.Tensor]:
    """The site's part of its module's tensor: one value a token and neuron, 0 for tokens that an expert was not given."""
    part = x if site.of is None else x[..., site.offset : site.offset + site.width]
    # An expert's tokens are spread only when they are asked for: it was given few of them, and they are kept meanwhile.
    return lambda: part if routed is None else routed.spread(part)
