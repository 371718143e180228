"""A :class:`Remedy` makes a model depend less on some neurons while it computes the same; a :class:`Change` says how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from lesion.core.neurons import NeuronSet
from lesion.core.sites import Sites
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.checkpoint import Asked


@dataclass(frozen=True)
class Change(ABC):
    """What a remedy did to a model."""

    remedy: ClassVar[str]
    """The remedy's name."""
    exact: ClassVar[bool] = True
    """Whether the model computes the same but for rounding."""

    def as_dict(self) -> dict[str, Any]:
        """What JSON says of it: by default, its fields."""
        return asdict(self)

    @property
    @abstractmethod
    def title(self) -> str:
        """What the model now has; goes on from "MODEL with "."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What was done, for the terminal."""

    @property
    @abstractmethod
    def done(self) -> str:
        """For the card: what was done for the neurons that are listed below; goes on from "The model MODEL, "."""

    @property
    @abstractmethod
    def otherwise(self) -> str:
        """For the card: what else there is to know of the change."""

    def sets(self, sites: Sites) -> dict[str, NeuronSet]:
        """Sets of neurons that the changed model has for those that it was changed for, by the names of their files.

        Args:
            sites: Of the changed model.
        """
        return {}


class Remedy(Protocol):
    """A way to harden a model, with its options."""

    def check(self) -> None:
        """Whether the options make sense, which is asked before a model is loaded.

        Raises:
            OptionError: They do not.
        """
        ...

    def apply(self, vlm: VisionLanguageModel, neurons: NeuronSet, asked: Asked) -> Change:
        """Changes the model in place.

        Args:
            vlm: The model.
            neurons: On which it is to depend less.
            asked: On what it will be compared with what it was.

        Raises:
            OptionError: It is no remedy for such neurons.
            ModelError: The model is built otherwise; nothing was changed.
        """
        ...
