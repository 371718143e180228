"""A :class:`Site` is one place where feed-forward neurons live; :mod:`lesion.models.discovery` finds a model's sites.

Roles (of a gated feed-forward network, ``down(act(gate(x)) * up(x))``):

=========  ============================================================  =======================
role       neuron                                                        read and masked as
=========  ============================================================  =======================
``gate``   a unit of the gate projection, before the activation function  output of ``gate_proj``
``up``     a unit of the up projection                                    output of ``up_proj``
``hidden`` an intermediate unit                                           input of ``down_proj``
``down``   an output channel of the out-projection                        output of ``down_proj``
=========  ============================================================  =======================

An ungated network ``fc2(act(fc1(x)))`` has ``hidden`` (input of ``fc2``) and ``down`` (output of ``fc2``). Where one module
holds gate and up, each is a part of its output (``offset``). In a mixture of experts every expert has sites of its own
(``expert``), whose values are those of the tokens that it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lesion.errors import OptionError

Component = Literal["vision", "connector", "qformer", "language"]
Role = Literal["gate", "up", "hidden", "down"]

COMPONENTS: tuple[Component, ...] = ("vision", "connector", "qformer", "language")
ROLES: tuple[Role, ...] = ("gate", "up", "hidden", "down")
ALL = "all"
"""Stands for every component, or for every role, where one is asked for."""


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
        offset: Where in the module's tensor the neurons start; not 0 only where one module holds gate and up.
        of: Width of the module's whole tensor; None where it is ``width``.
        out: Path of the out-projection that a ``gate`` or ``up`` neuron writes through.
        expert: 0-based expert whose neurons these are; None where the network is not one of several.
    """

    path: str
    component: Component
    role: Role
    layer: int
    width: int
    reachable: bool = field(default=True, compare=False)
    offset: int = field(default=0, compare=False)
    of: int | None = field(default=None, compare=False)
    out: str | None = field(default=None, compare=False)
    expert: int | None = None

    @property
    def whole(self) -> int:
        """Width of the module's tensor, of which the neurons may be a part."""
        return self.width if self.of is None else self.of

    @property
    def key(self) -> str:
        """``path:role``, or ``path.expert:role``; unique, since ``hidden`` and ``down`` hook the same module."""
        return f"{self.place_name}:{self.role}"

    @property
    def place_name(self) -> str:
        """The module's path, with the expert's number after it where there is one."""
        return self.path if self.expert is None else f"{self.path}.{self.expert}"

    @property
    def order(self) -> tuple[int, int, int, str, int]:
        """Sorts sites the same way everywhere: component, layer, role, path, expert."""
        return COMPONENTS.index(self.component), self.layer, ROLES.index(self.role), self.path, self.expert or 0

    @property
    def place(self) -> dict[str, Any]:
        """Where it is, for files: path, component, role, layer, and the expert where there is one."""
        about = {"path": self.path, "component": self.component, "role": self.role, "layer": self.layer}
        return about if self.expert is None else {**about, "expert": self.expert}

    @property
    def writes_through(self) -> str | None:
        """Path of the out-projection whose column a neuron is; None for ``down``, whose neurons are its output."""
        return None if self.role == "down" else self.path if self.reads_input else self.out

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

    def _repr_html_(self) -> str:
        from lesion.report.notebook import of_sites

        return of_sites(self)

    @property
    def neurons(self) -> int:
        """Number of neurons in all sites together."""
        return sum(site.width for site in self)

    def table(self) -> list[dict[str, Any]]:
        """One row a component and role: layers, widths, neurons, and how many of these can reach the answer."""
        groups: dict[tuple[Component, Role], list[Site]] = {}
        for site in self:
            groups.setdefault((site.component, site.role), []).append(site)
        return [
            {
                "component": component, "role": role, "layers": len({s.layer for s in members}),
                "widths": sorted({s.width for s in members}), "neurons": sum(s.width for s in members),
                "reachable": sum(s.width for s in members if s.reachable),
                "unreachable_sites": [s.place_name for s in members if not s.reachable],
            }
            for (component, role), members in groups.items()
        ]  # fmt: skip

    def get(self, key: str) -> Site | None:
        """The site of a :attr:`Site.key`."""
        return self._by_key.get(key)

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
