"""Edits of weights: a second kind of intervention, on what a model is instead of on what passes through it.

An edit changes some entries of one parameter; :func:`edited` applies edits while a context lasts and then puts back exactly the
bytes that were there. A model that is offloaded or quantised has no entries that could be edited, and is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site, Sites
from lesion.models.feedforward import columns, fans
from lesion.models.identity import EDITS

if TYPE_CHECKING:
    import torch
    from torch import nn


class WeightEdit(ABC):
    """A change of a model's weights that can be taken back."""

    @property
    @abstractmethod
    def id(self) -> str:
        """What it does, for keys and files."""

    @property
    def sites(self) -> tuple[Site, ...] | None:
        """The sites whose neurons' weights it changes, and no others; None where that is not known."""
        return None

    name: ClassVar[str] = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the name under which it is registered.

        Raises:
            OptionError: It cannot be made again by other processes.
        """
        raise OptionError(f"edit {type(self).__name__} cannot be given to other processes; measure it in this one")

    @classmethod
    def from_dict(cls, data: dict[str, Any], sites: Sites) -> WeightEdit:
        """From :meth:`as_dict`; with all sites of the model, and raising likewise."""
        raise OptionError(f"edit {cls.__name__} cannot be given to other processes; measure it in this one")

    @abstractmethod
    def parts(self, model: nn.Module) -> Iterator[torch.Tensor]:
        """Views of the parameters that :meth:`apply` changes, so that they can be restored.

        Raises:
            ModelError: A parameter is missing, offloaded or quantised.
        """

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Changes the weights in place."""


EDITS_BY_NAME: dict[str, type[WeightEdit]] = {}
"""Those that other processes can be asked for."""
Kind = TypeVar("Kind", bound=type[WeightEdit])


def register_edit(name: str) -> Callable[[Kind], Kind]:
    """Adds a class of edits under a name.

    Raises:
        ValueError: The name is taken.
    """

    def add(kind: Kind) -> Kind:
        if name in EDITS_BY_NAME:
            raise ValueError(f"an edit named {name!r} is registered already")
        kind.name = name
        EDITS_BY_NAME[name] = kind
        return kind

    return add


def edit_dict(edit: WeightEdit) -> dict[str, Any]:
    """For JSON.

    Raises:
        OptionError: It is not registered under its name, or cannot be made again by other processes.
    """
    own = edit.as_dict()
    if EDITS_BY_NAME.get(edit.name) is not type(edit):
        raise OptionError(f"edit {type(edit).__name__} is not registered; register it with register_edit")
    return {"name": edit.name, **own}


def edit_of(data: Mapping[str, Any], sites: Sites) -> WeightEdit:
    """From :func:`edit_dict`; with all sites of the model.

    Raises:
        OptionError: This process has none of the name.
    """
    name, own = data["name"], {key: value for key, value in data.items() if key != "name"}
    if name not in EDITS_BY_NAME:
        raise OptionError(f"edit {name!r} is not registered here; expected one of {', '.join(EDITS_BY_NAME)}")
    return EDITS_BY_NAME[name].from_dict(own, sites)


@dataclass(frozen=True)
class BitFlip(WeightEdit):
    """Flips one bit of one weight, as a soft error does.

    Attributes:
        parameter: Name, as in ``model.named_parameters()``.
        index: Place of the entry, one number a dimension.
        bit: From 0, the lowest of the mantissa, to the sign.
    """

    parameter: str
    index: tuple[int, ...]
    bit: int

    @property
    def id(self) -> str:
        return f"flip {self.parameter}[{', '.join(map(str, self.index))}] bit {self.bit}"

    def bits(self, weight: torch.Tensor) -> int:
        """How many bits an entry has."""
        return 8 * weight.itemsize

    def parts(self, model: nn.Module) -> Iterator[torch.Tensor]:
        weight = parameter_of(model, self.parameter)
        if len(self.index) != weight.ndim or any(not 0 <= i < n for i, n in zip(self.index, weight.shape, strict=False)):
            raise OptionError(f"{self.parameter} has shape {tuple(weight.shape)}; it has no entry {list(self.index)}")
        if not 0 <= self.bit < self.bits(weight):
            raise OptionError(f"bit is {self.bit}; an entry of {self.parameter} has {self.bits(weight)} bits")
        yield weight[self.index]

    def apply(self, model: nn.Module) -> None:
        import torch

        whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        for entry in self.parts(model):
            bits = entry.reshape(1).view(whole[entry.itemsize])
            # The sign bit is the lowest number of its type.
            size = 8 * entry.itemsize
            bits ^= -(2 ** (size - 1)) if self.bit == size - 1 else 2**self.bit


@dataclass(frozen=True)
class MergedMask(WeightEdit):
    """Masks neurons to zero in the weights themselves, for good where it is not taken back.

    A ``down`` neuron is a row of the out-projection with its bias; every other neuron writes through columns of one, which are
    set to zero.
    """

    neurons: NeuronSet

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.neurons.sites)

    @property
    def id(self) -> str:
        return f"mask of {len(self.neurons)} neurons {self.neurons.digest}"

    def parts(self, model: nn.Module) -> Iterator[torch.Tensor]:
        import torch

        for site in self.neurons.sites:
            if site.expert is not None:
                raise ModelError(f"{site.key} is an expert's; masks of experts cannot be merged into the weights")
            module: Any = model.get_submodule(site.writes_through or site.path)
            if fans(module) is None:
                raise ModelError(f"{site.path} ({type(module).__name__}) is no linear layer; its mask cannot be merged")
            weight = columns(module, _usable(module.weight, f"{site.path}.weight"))
            members = torch.from_numpy(self.neurons.indices(site))
            if site.writes_through is None:
                rows = (members + site.start).tolist()
                yield from (weight[row] for row in rows)
                if getattr(module, "bias", None) is not None:
                    yield from (module.bias.detach()[row] for row in rows)
            else:
                own = site.channels(self.neurons.indices(site)) - (0 if site.side == "input" else site.start)
                yield from (weight[:, column] for column in own.tolist())

    def apply(self, model: nn.Module) -> None:
        for part in self.parts(model):
            part.zero_()


@contextmanager
def edited(model: nn.Module, edits: Sequence[WeightEdit]) -> Iterator[None]:
    """Edits a model's weights while the context lasts; then every byte is as it was, whatever happened inside.

    The model's configuration lists the edits meanwhile, so that its identity says what was done to it. Several contexts may be
    left in any order and by any thread: what the others edit stays edited. A model that is moved to another device or dtype
    inside has other bytes than those that are put back, and keeps the edits.

    Args:
        model: In memory, not quantised.
        edits: Applied in order.

    Raises:
        ModelError, OptionError: An edit does not fit the model; nothing is changed then.
    """
    for edit in edits:
        list(edit.parts(model))  # whatever is wrong is found before the first is applied
    mine, layers = _Layer(model, edits), _LAYERS.setdefault(model, [])
    try:
        with _LOCK:
            layers.append(mine)
            mine.lay()
        yield
    finally:
        with _LOCK:
            # What lies above has kept bytes that this one wrote.
            above = layers[layers.index(mine) + 1 :]
            for layer in reversed([mine, *above]):
                layer.lift()
            layers.remove(mine)
            for layer in above:
                layer.lay()


class _Layer:
    """The edits of one context, on top of those of the contexts that were entered before."""

    def __init__(self, model: nn.Module, edits: Sequence[WeightEdit]) -> None:
        self._model, self._edits, self._undo = model, edits, ExitStack()

    def lay(self) -> None:
        import torch

        config: Any = self._model.config
        before = getattr(config, EDITS, None)
        # Around the changes alone: whether gradients are asked for inside is not for an edit to say.
        with torch.no_grad():
            for edit in self._edits:
                for part in edit.parts(self._model):
                    self._undo.callback(part.copy_, part.clone())
                edit.apply(self._model)
        setattr(config, EDITS, [*(before or []), *(edit.id for edit in self._edits)])
        self._undo.callback(_put_back, config, before)

    def lift(self) -> None:
        import torch

        with torch.no_grad():
            self._undo.close()


_LAYERS: WeakKeyDictionary[nn.Module, list[_Layer]] = WeakKeyDictionary()
"""Model -> what lies on its weights, the first to be laid first."""
_LOCK = RLock()
"""Can be taken again by the thread that has it: a context that was dropped may be collected, and left, at any moment."""


def _put_back(config: Any, before: list[str] | None) -> None:
    if before is None:
        delattr(config, EDITS)
    else:
        setattr(config, EDITS, before)


def parameter_of(model: nn.Module, name: str) -> torch.Tensor:
    """A parameter of a model, apart from any graph.

    Raises:
        ModelError: There is none, or it is offloaded or quantised.
    """
    parameters = dict(model.named_parameters())
    if name not in parameters:
        some = next(iter(parameters), "none")
        raise ModelError(f"the model has no parameter {name!r}; it has {len(parameters)}, such as {some!r}")
    return _usable(parameters[name], name)


def _usable(weight: torch.Tensor, name: str) -> torch.Tensor:
    if weight.device.type == "meta" or not weight.is_floating_point():
        raise ModelError(f"{name} is offloaded or quantised; expected floating-point weights in memory")
    return weight.detach()
