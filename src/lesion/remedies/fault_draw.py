"""Drawing faults: which neuron or weight, and which bit. The same seed draws the same faults, in any order."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np

from lesion.ablation.units import Request
from lesion.core.errors import OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.clean import Restored
from lesion.hooks.fault import BITS, ActivationFault, RangedFault, WeightFault, check_fault
from lesion.models.neuron_weights import Wiring, wiring_of
from lesion.models.vlm import VisionLanguageModel

Place = Literal["weights", "activations"]
PLACES: tuple[Place, ...] = get_args(Place)
Population = Literal["critical", "matched", "everything"]
POPULATIONS: tuple[Population, ...] = get_args(Population)
"""Where faults strike: the critical neurons; others of the same sites; anything (any weight of the model, or any neuron)."""


@dataclass(frozen=True)
class Kind:
    """What faults do.

    Attributes:
        where: Weights, or what passes through neurons.
        action: See :data:`lesion.hooks.fault.ACTIONS`.
        format: Numbers as they are stored, see :data:`lesion.hooks.fault.BITS`.
        bit: Which; None for any, each as likely.
        positions: Of ``activations``: at which tokens.
        at_once: So many at a time, in as many neurons.

    Raises:
        OptionError: There is no such fault.
    """

    where: Place = "weights"
    action: str = "flip"
    format: str = "fp32"
    bit: int | None = None
    positions: str = "all"
    at_once: int = 1

    def __post_init__(self) -> None:
        if self.where not in PLACES:
            raise OptionError(f"faults are in {self.where!r}; expected one of {', '.join(PLACES)}")
        check_fault(self.bit or 0, self.action, self.format)
        if self.at_once < 1:
            raise OptionError(f"faults at once are {self.at_once}; expected at least 1")
        if self.where == "activations":
            ActivationFault(bit=self.bit or 0, action=self.action, format=self.format, positions=self.positions)
        elif self.positions != "all":
            raise OptionError(f"positions {self.positions!r} are for faults in activations; weights serve all tokens")


@dataclass(frozen=True)
class Drawn:
    """One wrong bit.

    Attributes:
        neuron: Whose; None for a weight that may be no neuron's.
        bit: Which.
        parameter: Of a weight.
        index: The weight's place in it.
    """

    neuron: Neuron | None
    bit: int
    parameter: str | None = None
    index: tuple[int, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "neuron": None if self.neuron is None else self.neuron.as_dict(), "bit": self.bit, "parameter": self.parameter,
            "index": None if self.index is None else list(self.index),
        }  # fmt: skip


class Draws:
    """Draws faults in a model.

    Args:
        vlm: The model.
        critical: Neurons of its sites.
        sites: From which ``everything`` draws neurons.
        kind: What faults do.
        seed: Of the draws.

    Raises:
        OptionError: A site has no neurons but critical ones, so that nothing matches them.
    """

    def __init__(
        self, vlm: VisionLanguageModel, critical: NeuronSet, sites: Sequence[Site], kind: Kind, seed: int
    ) -> None:
        self._vlm, self._sites, self._kind, self._seed = vlm, list(sites), kind, seed
        self._critical, self._set = list(critical), critical

    @cached_property
    def _wiring(self) -> Wiring:
        return wiring_of(self._vlm.model)

    @cached_property
    def _parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        named = self._vlm.model.named_parameters()
        return [(name, tuple(p.shape)) for name, p in named if p.is_floating_point() and not p.is_meta]

    @cached_property
    def _ends(self) -> np.ndarray:
        """Behind the last entry of each parameter, where all stand in a line."""
        return np.cumsum([int(np.prod(shape)) for _, shape in self._parameters])

    def draw(self, population: Population, number: int) -> list[Drawn]:
        """The wrong bits of one trial; those in activations are the same bit.

        Args:
            population: Where they strike.
            number: Of the trial, from 0.

        Raises:
            OptionError: There are not so many neurons.
            ModelError: A neuron's weights are an expert's, offloaded or quantised.
        """
        rng = np.random.default_rng([self._seed, zlib.crc32(population.encode()), number])
        count, shared = self._kind.at_once, self._bit(rng)
        if self._kind.where == "activations":
            return [Drawn(neuron, shared) for neuron in self._neurons(population, count, rng)]
        if population == "everything":
            return [Drawn(None, self._bit(rng), *self._any_weight(rng)) for _ in range(count)]
        neurons = self._neurons(population, count, rng)
        return [Drawn(neuron, self._bit(rng), *self._weight(neuron, rng)) for neuron in neurons]

    def check(self, populations: Sequence[Population], guarded: bool = False) -> None:
        """Whether all that may be drawn can be asked; nothing is measured.

        Args:
            populations: Where faults strike.
            guarded: Whether the critical neurons' are asked with a guard too.

        Raises:
            OptionError: There are not so many neurons, or what is done to activations is not for these sites.
            ModelError: A critical neuron's weights are an expert's, offloaded or quantised.
        """
        for population in populations:
            act = self.request(self.draw(population, 0)).intervention
            if self._kind.where == "activations":
                sites = self._sites if population == "everything" else self._set.sites
                act.check(sites, self._vlm.is_encoder_decoder)
            elif population != "everything":
                for neuron in {neuron.site: neuron for neuron in self._critical}.values():
                    self._wiring.lines(neuron.site, neuron.index)
        if guarded and self._kind.where == "activations":
            RangedFault(positions=self._kind.positions).check(self._set.sites, self._vlm.is_encoder_decoder)

    def _bit(self, rng: np.random.Generator) -> int:
        if self._kind.action == "zero":
            return 0  # all of the number is lost
        return int(rng.integers(BITS[self._kind.format])) if self._kind.bit is None else self._kind.bit

    def _neurons(self, population: Population, count: int, rng: np.random.Generator) -> list[Neuron]:
        """Different ones."""
        if population == "everything":
            ends = np.cumsum([site.width for site in self._sites])
            chosen = rng.choice(int(ends[-1]), min(count, int(ends[-1])), replace=False)
            owner = np.searchsorted(ends, chosen, side="right")
            starts = [0, *ends.tolist()]
            return [Neuron(self._sites[at], int(i) - starts[at]) for at, i in zip(owner.tolist(), chosen, strict=True)]
        if count > len(self._critical):
            raise OptionError(f"{count} faults at once need as many critical neurons; there are {len(self._critical)}")
        critical = [self._critical[i] for i in rng.choice(len(self._critical), count, replace=False).tolist()]
        return critical if population == "critical" else self._matching(critical, rng)

    def _matching(self, critical: Sequence[Neuron], rng: np.random.Generator) -> list[Neuron]:
        """Others of the same sites, different ones."""
        found: list[Neuron] = []
        for site, members in groupby(sorted(critical, key=lambda n: n.site.order), key=lambda n: n.site):
            others, wanted = np.setdiff1d(np.arange(site.width), self._set.indices(site)), len(list(members))
            if len(others) < wanted:
                raise OptionError(f"{site.key} has {len(others)} neurons beside the set's; {wanted} are to match those")
            found += [Neuron(site, int(i)) for i in rng.choice(others, wanted, replace=False)]
        return found

    def _any_weight(self, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
        """One of the model's, each as likely."""
        entry = int(rng.integers(self._ends[-1]))
        at = int(np.searchsorted(self._ends, entry, side="right"))
        name, shape = self._parameters[at]
        before = int(self._ends[at - 1]) if at else 0
        return name, tuple(int(i) for i in np.unravel_index(entry - before, shape))

    def _weight(self, neuron: Neuron, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
        """One of a neuron's own weights, each as likely."""
        lines = self._wiring.lines(neuron.site, neuron.index)
        shapes = [tuple(self._vlm.model.get_parameter(line.parameter).shape) for line in lines]
        lengths = [1 if len(shape) == 1 else shape[1 - line.dim] for line, shape in zip(lines, shapes, strict=True)]
        ends = np.cumsum(lengths)
        place = int(rng.integers(ends[-1]))
        at = int(np.searchsorted(ends, place, side="right"))
        line, across = lines[at], place - (int(ends[at - 1]) if at else 0)
        if len(shapes[at]) == 1:
            return line.parameter, (line.at,)
        return line.parameter, (line.at, across) if line.dim == 0 else (across, line.at)

    def request(self, drawn: Sequence[Drawn], guard: str | None = None) -> Request:
        """What to ask of a model with wrong bits.

        Args:
            drawn: Of one trial.
            guard: A guard's file, which mends weights and puts activations back into their ranges; None for none.
        """
        kind = self._kind
        if kind.where == "activations":
            act = ActivationFault if guard is None else RangedFault
            fault = act(bit=drawn[0].bit, action=kind.action, format=kind.format, positions=kind.positions)
            return Request(NeuronSet(d.neuron for d in drawn if d.neuron is not None), fault)
        faults = tuple(self._edit(one) for one in drawn)
        return Request(NeuronSet(), edits=faults if guard is None else (*faults, Restored(guard)))

    def _edit(self, drawn: Drawn) -> WeightFault:
        assert drawn.parameter is not None and drawn.index is not None
        site = None if drawn.neuron is None else drawn.neuron.site
        return WeightFault(drawn.parameter, drawn.index, drawn.bit, self._kind.action, self._kind.format, site)
