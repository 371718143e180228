"""A :class:`Site` is one place where neurons live; :mod:`lesion.models.discovery` finds a model's sites.

A site names a module, which side of it (input or output), which slice of that tensor, and how many channels make one neuron.
Its role is a label. Those of a gated feed-forward network, ``down(act(gate(x)) * up(x))``, and of attention:

=========  ============================================================  =======================
role       neuron                                                        read and masked as
=========  ============================================================  =======================
``gate``   a unit of the gate projection, before the activation function  output of ``gate_proj``
``up``     a unit of the up projection                                    output of ``up_proj``
``hidden`` an intermediate unit                                           input of ``down_proj``
``down``   an output channel of the out-projection                        output of ``down_proj``
``head``   an attention head                                              a slice of the input of ``o_proj``
=========  ============================================================  =======================

An ungated network ``fc2(act(fc1(x)))`` has ``hidden`` (input of ``fc2``) and ``down`` (output of ``fc2``). Where one module
holds gate and up, each is a slice of its output (``start``). In a mixture of experts every expert has sites of its own
(``expert``), whose values are those of the tokens that it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lesion.core.display import HtmlTable
from lesion.core.errors import OptionError
from lesion.core.tables import Rows

Component = Literal["vision", "connector", "qformer", "language"]
Role = str
Side = Literal["input", "output"]

COMPONENTS: tuple[Component, ...] = ("vision", "connector", "qformer", "language")
ROLES: tuple[Role, ...] = ("gate", "up", "hidden", "down")
"""Of feed-forward networks: what ``all`` roles are. Other kinds of sites have roles of their own, to be named."""
ALL = "all"
"""Stands for every component, or for every feed-forward role, where one is asked for."""
MOST_TEXT = 1000
"""Characters of a choice of layers."""


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
        side: Which tensor of the module holds the neurons.
        start: Where in that tensor they begin; not 0 only where it holds other things too.
        whole: Width of the whole tensor; 0 stands for ``width * group``.
        group: How many consecutive channels are one neuron: 1, or the size of an attention head.
        out: Path of the out-projection that a neuron of the output side writes through; None where it is what is written.
        expert: 0-based expert whose neurons these are; None where the network is not one of several.
    """

    path: str
    component: Component
    role: Role
    layer: int
    width: int
    reachable: bool = field(default=True, compare=False)
    side: Side = field(default="output", compare=False)
    start: int = field(default=0, compare=False)
    whole: int = field(default=0, compare=False)
    group: int = field(default=1, compare=False)
    out: str | None = field(default=None, compare=False)
    expert: int | None = None

    def __post_init__(self) -> None:
        if not self.whole:
            object.__setattr__(self, "whole", self.width * self.group)

    @property
    def key(self) -> str:
        """``path:role``, or ``path.expert:role``; unique, since ``hidden`` and ``down`` hook the same module."""
        return f"{self.module_name}:{self.role}"

    @property
    def module_name(self) -> str:
        """The module's path, with the expert's number after it where there is one."""
        return self.path if self.expert is None else f"{self.path}.{self.expert}"

    @property
    def order(self) -> tuple[int, int, int, str, str, int]:
        """Sorts sites the same way everywhere: component, layer, role, path, expert."""
        role = ROLES.index(self.role) if self.role in ROLES else len(ROLES)
        return COMPONENTS.index(self.component), self.layer, role, self.role, self.path, self.expert or 0

    @property
    def location(self) -> dict[str, Any]:
        """Where it is, for files: path, component, role, layer, and the expert where there is one."""
        about = {"path": self.path, "component": self.component, "role": self.role, "layer": self.layer}
        return about if self.expert is None else {**about, "expert": self.expert}

    @property
    def writes_through(self) -> str | None:
        """Path of the out-projection whose column (or columns) a neuron is; None for one that is an output itself."""
        return self.path if self.side == "input" else self.out

    def channels(self, indices: np.ndarray) -> np.ndarray:
        """The channels of the module's tensor that neurons are, int64 ``[members * group]``."""
        first = self.start + np.asarray(indices, dtype=np.int64) * self.group
        return (first[:, None] + np.arange(self.group)).reshape(-1)

    @property
    def slice(self) -> slice:
        """The part of the module's tensor that the site is."""
        return slice(self.start, self.start + self.width * self.group)


class Sites(Sequence[Site], HtmlTable):
    """A model's sites in their fixed order, with selection by component, role and layer."""

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
                "unreachable_sites": [s.module_name for s in members if not s.reachable],
            }
            for (component, role), members in groups.items()
        ]  # fmt: skip

    def _html(self) -> tuple[str, Rows, int]:
        shown = ("component", "role", "layers", "neurons", "reachable")
        rows = [{name: row[name] for name in shown} for row in self.table()]
        return f"{self.neurons:,} neurons in {len(self):,} sites", rows, len(rows)

    def get(self, key: str) -> Site | None:
        """The site of a :attr:`Site.key`."""
        return self._by_key.get(key)

    def select(
        self,
        component: str = ALL,
        role: str = ALL,
        reachable_only: bool = False,
        layers: str | Iterable[int] | None = None,
    ) -> Sites:
        """The sites of a component, a role and some layers.

        Args:
            component: ``"all"`` for any.
            role: ``"all"`` for any of feed-forward networks (:data:`ROLES`); other roles, such as ``head``, are named.
            reachable_only: Leave out those that cannot reach the answer.
            layers: Numbers, or text such as ``"3-5"`` or ``"0,2"``; None for all.

        Raises:
            OptionError: An unknown component, role or layer, or one that this model does not have; the message lists the
                available ones.
        """
        components = sorted({s.component for s in self}, key=COMPONENTS.index)
        if component != ALL and component not in components:
            raise OptionError(f"component {component!r} is not in this model; available: {', '.join(components)}, {ALL}")
        part = [s for s in self if component in (ALL, s.component)]
        roles = list(dict.fromkeys(s.role for s in sorted(part, key=lambda s: s.order[2:4])))
        if role != ALL and role not in roles:
            where = "the model" if component == ALL else f"component {component!r}"
            raise OptionError(f"role {role!r} is not in {where}; available there: {', '.join(roles)}, {ALL}")
        part = [s for s in part if s.role == role or (role == ALL and s.role in ROLES)]
        if layers is not None:
            wanted = parse_layers(layers) if isinstance(layers, str) else frozenset(layers)
            missing = sorted(wanted - {s.layer for s in part})
            if missing:
                last = max((s.layer for s in part), default=0)
                raise OptionError(f"layer {missing[0]} is not among the chosen sites; their layers are 0 to {last}")
            part = [s for s in part if s.layer in wanted]
        return Sites(s for s in part if s.reachable or not reachable_only)


def parse_layers(text: str) -> frozenset[int]:
    """Layers as users write them: ``"7"``, ``"3-5"``, ``"0,2,8-11"``.

    Raises:
        OptionError: Anything else.
    """
    layers: set[int] = set()
    # Numbers of more digits are no layers of any model, and a range up to them would fill the memory.
    for part in text.split(",") if len(text) <= MOST_TEXT else [""]:
        numbers = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        if numbers is None or (numbers[2] and int(numbers[2]) < int(numbers[1])):
            raise OptionError(f"layers is {text!r}; expected numbers and ranges, such as 7 or 0,3-5")
        layers |= set(range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1))
    return frozenset(layers)
