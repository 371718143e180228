"""Discovery: finds every feed-forward site of a model, or says what it does not understand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lesion.errors import ModelError
from lesion.models import experts, feedforward
from lesion.models.structure import Structure
from lesion.sites import Role, Site, Sites

if TYPE_CHECKING:
    from torch import nn


def discover(model: nn.Module, structure: Structure | None = None) -> Sites:
    """Finds every feed-forward site of a model from its module tree.

    A parent module with an in-projection and an out-projection that :mod:`lesion.models.feedforward` knows is a feed-forward
    network; a single linear layer between the parts has its output channels as ``down`` neurons.

    Args:
        model: The loaded model; nothing is run or changed.
        structure: Which part of the tree is which component, and what cannot be reached; default: read from the model.

    Raises:
        ModelError: No site at all, projections whose sizes do not fit together, or a feed-forward network of a make that
            is not known; the message names its class and path.
    """
    structure = structure or Structure.of(model)
    modules: dict[str, Any] = dict(model.named_modules())
    sites: list[Site] = []

    def add(
        path: str, role: Role, width: int, out: str | None = None, offset: int = 0, of: int | None = None,
        expert: int | None = None,
    ) -> None:
        component = structure.component_of(path)
        if component is not None:
            reachable = structure.reachable(path)
            sites.append(Site(path, component, role, _layer(path), width, reachable, offset, of, out, expert))

    networks = list(feedforward.networks(modules))
    for found in networks:
        names, hidden, out = found.names, found.hidden, found.path(found.names.out)
        if names.gate is not None:
            add(found.path(names.gate), "gate", hidden, out)
            add(found.path(names.up), "up", hidden, out)
        for i, role in enumerate(names.fused):
            add(found.path(names.up), role, hidden, out, i * hidden, 2 * hidden)
        add(out, "hidden", hidden)
        add(out, "down", found.width)
    for path, mixture in experts.mixtures(modules):
        for expert in range(mixture.experts):
            for role in ("gate", "up", "hidden") if mixture.gated else ("hidden",):
                add(path, role, mixture.hidden, path, expert=expert)
            add(path, "down", mixture.width, expert=expert)
    for path, width in structure.projections(modules, {found.path(n) for found in networks for n in found.names.all}):
        add(path, "down", width)
    parts = {path: module for path, module in modules.items() if structure.component_of(path) is not None}
    strange = feedforward.unknown(parts, {found.parent for found in networks} | {site.path for site in sites})
    if strange:
        path = strange[0]
        raise ModelError(
            f"{path} ({type(modules[path]).__name__}) looks like a feed-forward network, and is not one that lesion knows "
            f"({len(strange)} such modules); docs/adding-a-family.md says how to add it"
        )
    if not sites:
        raise ModelError(f"{type(model).__name__} has no feed-forward site that lesion knows; see docs/adding-a-family.md")
    return Sites(sites)


def _layer(path: str) -> int:
    number = re.search(r"\.(?:layers?|blocks?|h)\.(\d+)\.", f".{path}.")
    return int(number[1]) if number else 0
