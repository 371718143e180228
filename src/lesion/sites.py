"""A :class:`Site` is one place where feed-forward neurons live; :func:`discover` finds a model's sites.

Roles (of a gated feed-forward network, ``down(act(gate(x)) * up(x))``):

=========  ============================================================  =======================
role       neuron                                                        read and masked as
=========  ============================================================  =======================
``gate``   a unit of the gate projection, before the activation function  output of ``gate_proj``
``up``     a unit of the up projection                                    output of ``up_proj``
``hidden`` an intermediate unit                                           input of ``down_proj``
``down``   an output channel of the out-projection                        output of ``down_proj``
=========  ============================================================  =======================

An ungated network ``fc2(act(fc1(x)))`` has ``hidden`` (input of ``fc2``) and ``down`` (output of ``fc2``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lesion.errors import ModelError, OptionError

if TYPE_CHECKING:
    from torch import nn

    from lesion.models.families import Family

Component = Literal["vision", "connector", "qformer", "language"]
Role = Literal["gate", "up", "hidden", "down"]

COMPONENTS: tuple[Component, ...] = ("vision", "connector", "qformer", "language")
ROLES: tuple[Role, ...] = ("gate", "up", "hidden", "down")
ALL = "all"
"""Stands for every component, or for every role, where one is asked for."""

_GATED = ("gate_proj", "up_proj", "down_proj")
_UNGATED = (
    ("fc1", "fc2"),  # CLIP, SigLIP, EVA
    ("intermediate_query.dense", "output_query.dense"),  # Q-Former, the query tokens' bank
    ("intermediate.dense", "output.dense"),  # Q-Former, the text tokens' bank
    ("linear_1", "linear_2"),  # LLaVA's projector
)


@dataclass(frozen=True)
class Site:
    """One place where neurons live.

    Attributes:
        path: The name of the module that is hooked, as in ``model.named_modules()``.
        component: Part of the model.
        role: What a neuron of this site is; see the module's table.
        layer: 0-based layer within the component; 0 where there are no layers.
        width: Number of neurons.
        reachable: False where the module runs (or not) without any effect on the answer.
    """

    path: str
    component: Component
    role: Role
    layer: int
    width: int
    reachable: bool = True

    @property
    def key(self) -> str:
        """``path:role``; unique, since ``hidden`` and ``down`` hook the same module."""
        return f"{self.path}:{self.role}"

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Sorts sites the same way everywhere: component, layer, role, path."""
        return COMPONENTS.index(self.component), self.layer, ROLES.index(self.role), self.path

    @property
    def writes_through(self) -> str | None:
        """Path of the out-projection whose column a neuron is; None for ``down``, whose neurons are its output."""
        if self.role == "down":
            return None
        return self.path if self.reads_input else f"{self.path.rpartition('.')[0]}.{_GATED[2]}"

    @property
    def reads_input(self) -> bool:
        """True where the neuron is the module's input, not its output."""
        return self.role == "hidden"


class Sites(Sequence[Site]):
    """A model's sites in their fixed order, with selection by component and role."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._sites = tuple(sorted(sites, key=lambda s: s.order))
        self._by_key = {site.key: site for site in self._sites}

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __getitem__(self, index: Any) -> Any:
        return self._sites[index]

    def __repr__(self) -> str:
        return f"Sites({len(self)} sites, {self.neurons:,} neurons)"

    @property
    def neurons(self) -> int:
        """Number of neurons in all sites together."""
        return sum(site.width for site in self)

    def get(self, path: str, role: str) -> Site | None:
        return self._by_key.get(f"{path}:{role}")

    def select(self, component: str = ALL, role: str = ALL, reachable_only: bool = False) -> Sites:
        """The sites of a component and a role; ``"all"`` for any.

        Raises:
            OptionError: An unknown component or role, or one that this model does not have; the message lists the
                available ones.
        """
        components = sorted({s.component for s in self}, key=COMPONENTS.index)
        if component != ALL and component not in components:
            raise OptionError(f"component {component!r} is not in this model; available: {', '.join(components)}, {ALL}")
        part = [s for s in self if component in (ALL, s.component)]
        roles = sorted({s.role for s in part}, key=ROLES.index)
        if role != ALL and role not in roles:
            where = "the model" if component == ALL else f"component {component!r}"
            raise OptionError(f"role {role!r} is not in {where}; available there: {', '.join(roles)}, {ALL}")
        return Sites(s for s in part if role in (ALL, s.role) and (s.reachable or not reachable_only))


def discover(model: nn.Module, family: Family) -> Sites:
    """Finds every feed-forward site of a model from its module tree.

    A parent module with an in-projection and an out-projection of known names is a feed-forward network; its widths are
    checked against each other. A module that ``family.projections`` names has its output channels as ``down`` neurons.

    Args:
        model: The loaded model; nothing is run or changed.
        family: Which part of the tree is which component, and what cannot be reached.

    Raises:
        ModelError: No site at all, or projections whose sizes do not fit together.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    unreachable = [re.compile(pattern) for pattern in family.unreachable(getattr(model, "config", None))]
    sites: list[Site] = []

    def add(path: str, role: Role, width: int) -> None:
        component = family.component_of(path)
        if component is not None:
            reachable = not any(pattern.match(path) for pattern in unreachable)
            sites.append(Site(path, component, role, _layer(path), width, reachable))

    for parent in modules:
        gate, up, down = (modules.get(f"{parent}.{name}") for name in _GATED)
        if gate is not None and up is not None and down is not None:
            _check(parent, _width(gate), _width(up), down.in_features)
            add(f"{parent}.{_GATED[0]}", "gate", _width(gate))
            add(f"{parent}.{_GATED[1]}", "up", _width(up))
            add(f"{parent}.{_GATED[2]}", "hidden", down.in_features)
            add(f"{parent}.{_GATED[2]}", "down", _width(down))
        for first, second in _UNGATED:
            fan_out, out = modules.get(f"{parent}.{first}"), modules.get(f"{parent}.{second}")
            if fan_out is not None and out is not None:
                _check(parent, _width(fan_out), out.in_features)
                add(f"{parent}.{second}", "hidden", out.in_features)
                add(f"{parent}.{second}", "down", _width(out))
        if parent in family.projections:
            add(parent, "down", _width(modules[parent]))
    if not sites:
        raise ModelError(
            f"{type(model).__name__} has no feed-forward site that lesion knows; "
            f"expected modules named {'/'.join(_GATED)} or {', '.join('/'.join(p) for p in _UNGATED)}"
        )
    return Sites(sites)


def _width(linear: Any) -> int:
    return int(linear.out_features)


def _check(parent: str, *widths: int) -> None:
    if len(set(widths)) > 1:
        raise ModelError(f"the projections of {parent} do not fit together: widths {widths}, expected them to be equal")


def _layer(path: str) -> int:
    number = re.search(r"\.(?:layers?|blocks)\.(\d+)\.", f".{path}.")
    return int(number[1]) if number else 0
