"""One forward and one backward pass over a batch: the part that every scorer with a gradient shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from lesion.core.sites import Site
from lesion.hooks.capture import capture_gradients

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lesion.scoring.registry import Pair, ScoringBatch

    See = Callable[[Site, list[Pair]], None]

FP16_LOSS_SCALE = 2.0**12
"""Gradients below 6e-8 vanish in float16; the loss is multiplied by this before the backward pass, and they are divided."""


def backward(
    model: nn.Module,
    sites: Iterable[Site],
    batch: ScoringBatch,
    see: See,
    before: AbstractContextManager[object] | None = None,
    after: AbstractContextManager[object] | None = None,
) -> torch.Tensor:
    """Runs the model and differentiates the sum of the samples' finite losses.

    Args:
        model: Frozen.
        sites: Where to look.
        batch: What is run.
        see: Called with a site and, for each time that its module was called, its activation and the loss's gradient with
            respect to it, in float32.
        before: Attaches hooks that run before the capture at the same module: what they change is what is captured.
        after: Attaches hooks that run behind it: what they change is not captured, and the gradient goes back through them.

    Returns:
        Which rows have a finite loss, bool ``[rows]``.
    """
    import torch

    scale = FP16_LOSS_SCALE if getattr(model, "dtype", None) == torch.float16 else 1.0

    def arrived(site: Site, activations: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
        pairs = ((a.float(), g.float()) for a, g in zip(activations, gradients, strict=True))
        see(site, [(a, g / scale if scale != 1 else g) for a, g in pairs])

    # Hooks of one module run in the order in which they were attached.
    with before or nullcontext(), capture_gradients(model, sites, arrived), after or nullcontext(), torch.enable_grad():
        losses = batch.losses()
        usable = torch.isfinite(losses.detach())
        if usable.any() and losses.requires_grad:  # an expert that is given no token leaves no graph
            (losses[usable].float().sum() * scale).backward()
    return usable
