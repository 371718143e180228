"""How much of the residual stream each neuron writes: the size of what it writes beside that of the stream it is added to.

lesion's own. A neuron that writes most of the stream decides what the next norm divides by, whatever the gradient says
(massive activations, arXiv 2402.17762); a forward pass shows it. ``|a_j| * ||W_out[:, j]|| / ||r||``, where ``r`` is the
output of the layer that the site is in, at the same token; a ``down`` neuron writes its own value, ``|a_j| / ||r||``.

Where a norm stands between the out-projection and the stream (Gemma 2 and 3, OLMo 2), or behind their sum (BERT, the
Q-Former), the stream does not hold ``a_j * W_out[:, j]`` but a multiple of it, and the number is a share in name only. The
values of ``gate`` and ``up`` stand for the unit's, as in the Wanda-like scorer: what is written is what ``hidden`` has.

Not every site is in such a layer. Those of a connector and those in no list of layers are not scored, and neither is one whose
layer gives other tokens than it has (the Q-Former's two banks). They have no entry in the importance, and count as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lesion.core.sites import Site
from lesion.hooks.attach import removal
from lesion.hooks.capture import capture_activations
from lesion.scoring.options import ScoreOptions
from lesion.scoring.registry import aggregate, register

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lesion.scoring.registry import Pair


@register("output-share", "aggregate", "positions", needs="residual", by_weight=True)
def _output_share(a: torch.Tensor, stream: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Mean share of the residual stream's norm that the neuron writes."""
    return aggregate(a.abs() / stream, tokens, options.aggregate)


@contextmanager
def capture_with_stream(model: nn.Module, sites: Iterable[Site], see: Callable[[Site, Pair], None]) -> Iterator[None]:
    """Calls ``see(site, (a, norms))`` as soon as the layer that a site is in has run.

    ``a`` is the site's activation ``[..., channels]`` and ``norms`` the L2 norm of the layer's output at each token, both
    float32 and of one shape. Sites that are not in a layer are passed over.

    Raises:
        ModelError: The model has no module of a site's name.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    layers = {site: layer for site in sites if (layer := layer_path(site, modules)) is not None}
    waiting: dict[str, list[tuple[Site, torch.Tensor]]] = {layer: [] for layer in layers.values()}

    def written(layer: str) -> Callable[..., None]:
        def on(_: Any, __: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple | list) else output
            seen, waiting[layer] = waiting[layer], []
            for site, a in seen:
                norms = _norms(stream, a)
                if norms is not None:
                    see(site, (a, norms))

        return on

    def keep(site: Site, a: torch.Tensor) -> None:
        waiting[layers[site]].append((site, a.float()))

    with capture_activations(model, layers, keep), ExitStack() as stack:
        for layer in waiting:
            stack.callback(removal(modules[layer].register_forward_hook(written(layer))))
        yield


def layer_path(site: Site, modules: dict[str, Any]) -> str | None:
    """Path of the layer that a site is in: its place in the outermost list of modules; None for a site without one.

    Args:
        site: Of the model.
        modules: ``dict(model.named_modules())``.
    """
    from torch.nn import ModuleList

    steps = site.path.split(".")
    if site.component == "connector":
        return None
    for i in range(1, len(steps)):
        if steps[i].isdigit() and isinstance(modules.get(".".join(steps[:i])), ModuleList):
            return ".".join(steps[: i + 1])
    return None


def _norms(stream: Any, a: torch.Tensor) -> torch.Tensor | None:
    """The stream's norms in the shape of ``a``; None where its tokens are not those of ``a``."""
    import torch

    if not isinstance(stream, torch.Tensor):
        return None
    norms = stream.float().norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    if a.ndim == 2 and norms.numel() == len(a):
        norms = norms.reshape(-1)  # some modules see the tokens of all rows one after the other
    return norms.unsqueeze(-1).expand_as(a) if norms.shape == a.shape[:-1] else None
