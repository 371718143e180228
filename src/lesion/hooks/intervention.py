"""An :class:`Intervention`: what becomes of a neuron's value, as data.

It can be saved by its :attr:`~Intervention.id`, says which statistics it needs, and can be restricted to some tokens of the
language model (``positions``) and to some ``layers``. :func:`lesion.hooks.intervene.mask` applies one. One of your own is a
few lines::

    @register_intervention("noise")
    @dataclass(frozen=True, kw_only=True)
    class Noise(Intervention):
        std: float = 1.0

        def value(self, x: torch.Tensor, at: Where) -> torch.Tensor:
            return x + self.std * torch.randn_like(x)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from lesion.core.errors import OptionError
from lesion.core.sites import Site
from lesion.models.tokens import FIRST, GENERATED, IMAGE, TEXT

if TYPE_CHECKING:
    import torch

Statistics = Mapping[str, Mapping[str, np.ndarray]]
"""Name of a statistic (``mean``, ``class-mean``) -> site key -> values, ``[channels]`` or ``[classes, channels]``."""
POSITIONS = {"all": None, "first": FIRST, "image": IMAGE, "text": TEXT, "generated": GENERATED}
"""Which tokens an intervention can be restricted to: text is the prompt's, without the first token; generated the answer's."""


@dataclass(frozen=True)
class Where:
    """Where a value stands that an intervention replaces.

    Attributes:
        site: The site.
        channels: Which of the site's channels the values are, int64 ``[members]``.
        statistics: Those that the intervention needs, each ``[members]`` or ``[classes, members]``.
        classes: The class of every token, int64 like the values without their last dimension; called only where needed.
    """

    site: Site
    channels: np.ndarray
    statistics: Mapping[str, torch.Tensor]
    classes: Callable[[], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Intervention(ABC):
    """What becomes of the values of masked neurons.

    Attributes:
        positions: Which tokens it acts on, a key of :data:`POSITIONS`; others than ``all`` for the language model alone.
        layers: In which layers it acts; None for all.
        needs: Names of the statistics that it reads.

    Raises:
        OptionError: Unknown positions.
    """

    positions: str = "all"
    layers: frozenset[int] | None = None
    name: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    first_apart: ClassVar[bool] = False
    """Whether it tells the first token from others, and so is for the language model alone."""

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise OptionError(f"positions is {self.positions!r}; expected one of {', '.join(POSITIONS)}")

    @abstractmethod
    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        """The new values.

        Args:
            x: The values as they are, ``[..., members]``.
            at: Where they are.

        Returns:
            Something that can be expanded to the shape of ``x``.
        """

    @property
    def id(self) -> str:
        """Name and everything that decides what it does, for keys and files."""
        own = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name not in ("positions", "layers")]
        text = f"{self.name or type(self).__name__}({', '.join(own)})" if own else self.name or type(self).__name__
        text += "" if self.positions == "all" else f"@{self.positions}"
        return text if self.layers is None else f"{text}@layers={','.join(map(str, sorted(self.layers)))}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON.

        Raises:
            OptionError: It is not registered under its name, so that nobody else could make it again.
        """
        if INTERVENTIONS.get(self.name) is not type(self):
            raise OptionError(f"intervention {type(self).__name__} is not registered; register it with register_intervention")
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"name": self.name, **own, "layers": None if self.layers is None else sorted(self.layers)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Intervention:
        """From :meth:`as_dict`.

        Raises:
            OptionError: This process has none of the name.
        """
        name, layers, own = data["name"], data["layers"], {k: v for k, v in data.items() if k not in ("name", "layers")}
        if name not in INTERVENTIONS:
            raise OptionError(f"intervention {name!r} is not registered here; expected one of {', '.join(INTERVENTIONS)}")
        return INTERVENTIONS[name](layers=None if layers is None else frozenset(layers), **own)

    def check(self, sites: Iterable[Site], is_encoder_decoder: bool = False) -> None:
        """Whether it can be applied.

        Raises:
            OptionError: It restricts positions where tokens are not told apart, or needs the means of experts.
        """
        for site in sites:
            if self.needs and site.expert is not None:
                raise OptionError(f"{self.id!r} is not for experts: few tokens reach {site.key}; use 'zero'")
            if self.positions != "all" and site.component != "language":
                raise OptionError(f"positions {self.positions!r} are tokens of the language model, and {site.key} is not in it")
            if self.first_apart and site.component != "language":
                raise OptionError(f"{self.id!r} tells the first token apart, and {site.key} is not in the language model")
        if is_encoder_decoder and (self.positions != "all" or self.first_apart or "class-mean" in self.needs):
            raise OptionError(f"{self.id!r} is for decoders: this model's prompt is read by an encoder; use 'zero' or 'mean'")


INTERVENTIONS: dict[str, type[Intervention]] = {}
"""By the name that ``--mask`` takes."""

Kind = TypeVar("Kind", bound=type[Intervention])


def register_intervention(name: str) -> Callable[[Kind], Kind]:
    """Adds a class of interventions under a name.

    Raises:
        ValueError: The name is taken.
    """

    def add(kind: Kind) -> Kind:
        if name in INTERVENTIONS:
            raise ValueError(f"an intervention named {name!r} is registered already")
        kind.name = name
        INTERVENTIONS[name] = kind
        return kind

    return add


@register_intervention("zero")
@dataclass(frozen=True, kw_only=True)
class Zero(Intervention):
    """Sets neurons to zero (zero ablation)."""

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        return 0.0


@register_intervention("mean")
@dataclass(frozen=True, kw_only=True)
class Mean(Intervention):
    """Sets neurons to their mean over the data (mean ablation); zero destroys where this does not (arXiv 2402.17762)."""

    needs: ClassVar[tuple[str, ...]] = ("mean",)

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        return at.statistics["mean"]


@register_intervention("class-mean")
@dataclass(frozen=True, kw_only=True)
class ClassMean(Intervention):
    """Sets neurons to their mean over tokens of the same class: first, image, text; elsewhere than in the language model
    to their mean."""

    needs: ClassVar[tuple[str, ...]] = ("class-mean",)

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        means = at.statistics["class-mean"]
        # Generated tokens are text.
        return means if means.ndim == 1 else means[at.classes().clamp(max=TEXT)]


@register_intervention("first-mean")
@dataclass(frozen=True, kw_only=True)
class FirstMean(Intervention):
    """Sets neurons to zero but at the first token, where they are set to their mean there over the data.

    One constant a neuron: what is left of a neuron whose weights are lost (:mod:`lesion.remedies.repair`).
    """

    needs: ClassVar[tuple[str, ...]] = ("class-mean",)
    first_apart: ClassVar[bool] = True

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        import torch

        first = (at.classes() == FIRST).unsqueeze(-1)
        return torch.where(first, at.statistics["class-mean"][FIRST], torch.zeros_like(x))


@register_intervention("scale")
@dataclass(frozen=True, kw_only=True)
class Scale(Intervention):
    """Multiplies neurons by a factor."""

    factor: float = 0.5

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        return x * self.factor


@register_intervention("constant")
@dataclass(frozen=True, kw_only=True)
class Constant(Intervention):
    """Sets neurons to one number."""

    number: float = 0.0

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        return self.number


def get_intervention(
    intervention: str | Intervention, positions: str = "all", layers: frozenset[int] | None = None
) -> Intervention:
    """From a name, perhaps with a number (``scale:0.5``); an intervention as it is.

    Raises:
        OptionError: An unknown name or positions, or a number where none is taken.
    """
    if isinstance(intervention, Intervention):
        return intervention
    name, colon, number = intervention.partition(":")
    if name not in INTERVENTIONS:
        raise OptionError(f"mask {intervention!r} is unknown; expected one of {', '.join(INTERVENTIONS)}")
    kind = INTERVENTIONS[name]
    own = [f.name for f in fields(kind) if f.name not in ("positions", "layers")]
    arguments: dict[str, float] = {}
    if colon:
        try:
            arguments = {own[0]: float(number)}
        except (IndexError, ValueError):
            takes = f"{name}:NUMBER" if own else f"{name} alone"
            raise OptionError(f"mask is {intervention!r}; expected {takes}") from None
    return kind(positions=positions, layers=layers, **arguments)  # pyright: ignore[reportArgumentType]
