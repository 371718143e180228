"""Capture: hooks that read activations and gradients at sites, and change nothing of what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lesion.core.sites import Site
from lesion.hooks.attach import SiteHook, attached
from lesion.models.experts import Routed

if TYPE_CHECKING:
    import torch
    from torch import nn

    Tensors = list[torch.Tensor]


@contextmanager
def capture_activations(
    model: nn.Module, sites: Iterable[Site], see: Callable[[Site, torch.Tensor], None]
) -> Iterator[None]:
    """Calls ``see(site, activation)`` during the forward pass, once for each time that the site's module is called.

    Raises:
        ModelError: The model has no module of a site's name.
    """

    def look(site: Site) -> SiteHook:
        return lambda x, routed: see(site, _own(site, x, routed)())

    with attached(model, [(site, look(site)) for site in sites]):
        yield


@contextmanager
def capture_gradients(
    model: nn.Module, sites: Iterable[Site], see: Callable[[Site, Tensors, Tensors], None]
) -> Iterator[None]:
    """Calls ``see(site, activations, gradients)`` during the backward pass, for every site that a gradient reaches.

    Each list has one tensor for each time that the site's module was called in the forward pass, in that order: nearly always
    one. ``see`` is called as soon as the last of a site's gradients is there, so that nothing is kept longer than it must be.
    A call whose output the loss does not read has a gradient of 0, where another call of its site has one.

    With every weight frozen nothing asks for a gradient, so the first site on each path is made a leaf of the graph;
    what comes before it (the embeddings, the vision tower when no vision site is captured) is not differentiated.

    Raises:
        ModelError: The model has no module of a site's name.
    """
    calls: dict[str, _Calls] = {}

    def tap(site: Site) -> SiteHook:
        own = calls[site.key] = _Calls(site, see)

        def on(x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
            if not x.requires_grad:
                x = x.detach().requires_grad_(True)
            own.add(x, routed)
            return x

        return on

    with attached(model, [(site, tap(site)) for site in sites]):
        yield
    for own in calls.values():
        own.finish()


class _Calls:
    """The calls of one site's module in a pass, until all their gradients are there."""

    def __init__(self, site: Site, see: Callable[[Site, Tensors, Tensors], None]) -> None:
        self._site, self._see = site, see
        self._activations: list[Callable[[], torch.Tensor]] = []
        self._gradients: dict[int, torch.Tensor] = {}

    def add(self, x: torch.Tensor, routed: Routed | None) -> None:
        number = len(self._activations)
        self._activations.append(_own(self._site, x.detach(), routed))

        def arrive(gradient: torch.Tensor) -> None:
            self._gradients[number] = _own(self._site, gradient.detach(), routed)()
            if len(self._gradients) == len(self._activations):
                self.finish()

        x.register_hook(arrive)

    def finish(self) -> None:
        calls, arrived = self._activations, self._gradients
        self._activations, self._gradients = [], {}
        if arrived:
            activations = [activation() for activation in calls]
            zeros = (a.new_zeros(()).expand_as(a) for a in activations)
            self._see(self._site, activations, [arrived.get(i, zero) for i, zero in enumerate(zeros)])


def _own(site: Site, x: torch.Tensor, routed: Routed | None) -> Callable[[], torch.Tensor]:
    """The site's part of its module's tensor: one value a token and channel, 0 for tokens that an expert was not given."""
    part = x if site.whole == site.width * site.group else x[..., site.slice]
    # An expert's tokens are spread only when they are asked for: it was given few of them, and they are kept meanwhile.
    return lambda: part if routed is None else routed.spread(part)
