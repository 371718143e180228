"""Discovery: finds every site of a model, or says what it does not understand.

Feed-forward networks are always looked for. A kind of site beside them is a function that yields sites, registered under the
role that they have::

    @register_sites("norm")
    def norms(model, structure):
        modules = dict(model.named_modules())
        for path, module in modules.items():
            if path.endswith("post_attention_layernorm") and structure.component_of(path) == "language":
                yield Site(path, "language", "norm", layer_of(path, modules), module.weight.numel())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError
from lesion.core.sites import ROLES, Role, Site, Sites
from lesion.models import attention, experts, feedforward
from lesion.models.structure import Structure, layer_of

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

    def add(path: str, role: Role, width: int, **where: Any) -> None:
        component = structure.component_of(path)
        if component is not None:
            reachable = structure.reachable(path)
            sites.append(Site(path, component, role, layer_of(path, modules), width, reachable=reachable, **where))

    networks = list(feedforward.networks(modules))
    for network in networks:
        names, hidden, out = network.names, network.hidden, network.path(network.names.out)
        if names.gate is not None:
            add(network.path(names.gate), "gate", hidden, out=out)
            add(network.path(names.up), "up", hidden, out=out)
        for i, role in enumerate(names.fused):
            add(network.path(names.up), role, hidden, out=out, start=i * hidden, whole=2 * hidden)
        add(out, "hidden", hidden, side="input")
        add(out, "down", network.width)
    for path, mixture in experts.mixtures(modules):
        for expert in range(mixture.experts):
            for role in ("gate", "up", "hidden") if mixture.gated else ("hidden",):
                add(path, role, mixture.hidden, out=path, side="input" if role == "hidden" else "output", expert=expert)
            add(path, "down", mixture.width, expert=expert)
    for path, width in structure.projections(modules, {network.path(n) for network in networks for n in network.names.all}):
        add(path, "down", width)
    parts = {path: module for path, module in modules.items() if structure.component_of(path) is not None}
    strange = feedforward.unknown(parts, {network.parent for network in networks} | {site.path for site in sites})
    if strange:
        path = strange[0]
        raise ModelError(
            f"{path} ({type(modules[path]).__name__}) looks like a feed-forward network, and is not one that lesion knows "
            f"({len(strange)} such modules); docs/adding-a-family.md says how to add it"
        )
    if not sites:
        raise ModelError(f"{type(model).__name__} has no feed-forward site that lesion knows; see docs/adding-a-family.md")
    for kind in KINDS.values():
        sites += kind(model, structure)
    return Sites(sites)


SiteKind = Callable[["nn.Module", Structure], Iterable[Site]]
KINDS: dict[str, SiteKind] = {"head": attention.heads}
"""Role -> what finds the sites of that role, beside those of feed-forward networks."""


def register_sites(role: str) -> Callable[[SiteKind], SiteKind]:
    """Adds a kind of site. Models that are loaded afterwards have them; ``--role ROLE`` studies them.

    Args:
        role: What its sites' neurons are called.

    Raises:
        ValueError: The role is taken.
    """

    def add(kind: SiteKind) -> SiteKind:
        if role in KINDS or role in ROLES:
            raise ValueError(f"a kind of site with the role {role!r} is there already")
        KINDS[role] = kind
        return kind

    return add
