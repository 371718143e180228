"""Which weights a neuron is made of: rows and columns of the projections around it.

An intermediate unit is a row of each in-projection (with its entry of the bias) and a column of the out-projection; a ``down``
neuron is a row of the out-projection with its entry of the bias; a head is the columns that it writes through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lesion.core.errors import ModelError
from lesion.core.sites import Site
from lesion.models.feedforward import FeedForward, columns, fans, networks

if TYPE_CHECKING:
    import torch
    from torch import nn


class Line(NamedTuple):
    """A row (``dim`` 0) or a column (1) of a parameter; of a bias, one entry."""

    parameter: str
    dim: int
    at: int

    def __str__(self) -> str:
        return f"{self.parameter}[{':, ' if self.dim else ''}{self.at}]"


@dataclass(frozen=True)
class Wiring:
    """A model's modules and feed-forward networks; see :func:`wiring_of`."""

    modules: Mapping[str, Any]
    networks: Mapping[str, FeedForward]

    def lines(self, site: Site, index: int) -> list[Line]:
        """The weights of one neuron, the out-projection's first.

        Raises:
            ModelError: It is an expert's, or its projections are no plain layers in memory.
        """
        if site.expert is not None:
            raise ModelError(f"{site.key} is an expert's, whose weights are stacked; expected a neuron of a plain layer")
        out = site.writes_through or site.path
        if site.writes_through is None:
            return self._layer(out, [index + site.start], 0)
        channels = site.channels(np.array([index])) - (0 if site.side == "input" else site.start)
        lines = self._layer(out, channels.tolist(), 1)
        network = self.networks.get(out)
        if network is None or site.group > 1:
            return lines
        names = network.names
        for name in names.all:
            if name == names.out:
                continue
            rows = [index + part * network.hidden for part in range(max(len(names.fused), 1))]
            lines += self._layer(network.path(name), rows, 0)
        return lines

    def _layer(self, path: str, members: list[int], dim: int) -> list[Line]:
        """Rows or columns of a linear layer, as its parameter holds them, and what the bias has of rows."""
        module = self.modules.get(path)
        weight: torch.Tensor | None = getattr(module, "weight", None)
        if weight is None or fans(module) is None or weight.is_meta or not weight.is_floating_point() or weight.ndim != 2:
            raise ModelError(f"{path} is no plain linear layer in memory; expected floating-point weights")
        turned = columns(module, weight) is not weight
        lines = [Line(f"{path}.weight", 1 - dim if turned else dim, i) for i in members]
        if dim == 0 and getattr(module, "bias", None) is not None:
            lines += [Line(f"{path}.bias", 0, i) for i in members]
        return lines


def wiring_of(model: nn.Module) -> Wiring:
    """Reads a model's modules, once for any number of neurons."""
    modules = dict(model.named_modules())
    return Wiring(modules, {network.path(network.names.out): network for network in networks(modules)})
