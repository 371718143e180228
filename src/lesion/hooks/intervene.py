"""Interventions: what becomes of a neuron's value, in prefill and in every decoding step.

An :class:`Intervention` is data: it can be saved by its :attr:`~Intervention.id`, and says which statistics it needs. It can be
restricted to some tokens of the language model (``positions``) and to some ``layers``. :func:`mask` applies one to a set of
neurons by hooks on the model's own modules; nothing of the model is replaced or edited. One of your own is a few lines::

    @register_intervention("noise")
    @dataclass(frozen=True, kw_only=True)
    class Noise(Intervention):
        std: float = 1.0

        def value(self, x: torch.Tensor, at: Where) -> torch.Tensor:
            return x + self.std * torch.randn_like(x)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site
from lesion.hooks.attach import SiteHook, attached
from lesion.models.experts import Routed
from lesion.models.layout import TokenLayout
from lesion.models.tokens import FIRST, GENERATED, IMAGE, TEXT

if TYPE_CHECKING:
    import torch
    from torch import nn

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
        if is_encoder_decoder and (self.positions != "all" or "class-mean" in self.needs):
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


@contextmanager
def mask(
    model: nn.Module,
    neurons: NeuronSet | Sequence[NeuronSet],
    intervention: str | Intervention = "zero",
    statistics: Statistics | None = None,
    layout: TokenLayout | None = None,
) -> Iterator[None]:
    """Intervenes on neurons while the context lasts.

    Contexts may be left in any order and by any thread. Hooks are the model's and not a thread's: what one thread masks is
    masked in every thread's passes, and a pass that is under way when a context is entered or left is masked in part. To try
    several masks at once, give each row a set of its own.

    Args:
        model: The model whose modules the sites name.
        neurons: One set for every row of a batch; or a sequence of sets, one a row, for as many experiments in one
            batch as it has rows. A batch with another number of rows is then an error.
        intervention: What becomes of their values.
        statistics: Those that the intervention needs.
        layout: The classes of the tokens, for interventions that depend on them; and which of the rows a pass is over, where
            some are left out.

    Raises:
        NeuronSetError: The model lacks a module of the set, or a module's width is not the site's; or, when a
            per-sample mask is used, the batch has another number of rows than there are sets.
        OptionError: An unknown intervention, statistics missing for a masked site, or one that is not for these sites.
    """
    act = get_intervention(intervention)
    shared = isinstance(neurons, NeuronSet)
    sets = [neurons] if isinstance(neurons, NeuronSet) else list(neurons)
    touched = sorted({site for members in sets for site in members.sites}, key=lambda s: s.order)
    act.check(touched)
    paths = {path for path, _ in model.named_modules()}
    hooks: list[tuple[Site, SiteHook]] = []
    for site in touched:
        if site.path not in paths:
            raise NeuronSetError(f"the model has no module {site.path!r}; is the set from another model?")
        if act.layers is None or site.layer in act.layers:
            channels = np.unique(np.concatenate([members.indices(site) for members in sets]))
            applied = _Applied(act, site, channels, statistics or {}, layout)
            hooks.append((site, applied.to_all if shared else _PerRow(applied, sets, layout)))
    with attached(model, hooks):
        yield


class _Applied:
    """An intervention at one site."""

    def __init__(
        self, act: Intervention, site: Site, neurons: np.ndarray, statistics: Statistics, layout: TokenLayout | None
    ) -> None:
        import torch

        self.act, self.site, self._layout = act, site, layout
        self.channels = torch.from_numpy(site.channels(neurons))  # in the module's tensor
        self._own = site.channels(neurons) - site.start  # in the site
        values = {name: _statistic(act, site, name, statistics)[..., self._own] for name in act.needs}
        self._statistics = {name: torch.from_numpy(value) for name, value in values.items()}

    def new(self, x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
        """The new values for some values of the site's channels, ``[..., members]``."""
        import torch

        for name, value in self._statistics.items():
            self._statistics[name] = value.to(device=x.device, dtype=x.dtype)

        def classes() -> torch.Tensor:
            if self._layout is None:
                raise OptionError(f"{self.act.id!r} needs the layout of the tokens; found none")
            if routed is None:
                return self._layout.classes(tuple(x.shape[:-1])).to(x.device)
            return self._layout.classes((routed.total,)).to(x.device)[routed.tokens]

        value = self.act.value(x, Where(self.site, self._own, self._statistics, classes))
        new = torch.as_tensor(value, dtype=x.dtype, device=x.device).expand_as(x)
        only = POSITIONS[self.act.positions]
        return new if only is None else torch.where((classes() == only).unsqueeze(-1), new, x)

    def to_all(self, x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
        """Replaces the same neurons in every row."""
        self.check_width(x)
        self.channels = self.channels.to(x.device)
        return x.index_copy(-1, self.channels, self.new(x.index_select(-1, self.channels), routed))

    def check_width(self, x: torch.Tensor) -> None:
        if x.shape[-1] != self.site.whole:
            raise NeuronSetError(f"{self.site.key} should have {self.site.whole} channels; its module gives {x.shape[-1]}")


class _PerRow:
    """Replaces each row's own neurons."""

    def __init__(self, applied: _Applied, sets: Sequence[NeuronSet], layout: TokenLayout | None) -> None:
        import torch

        self._applied, self._layout, site = applied, layout, applied.site
        members = applied.channels.numpy()
        self._masked = torch.stack([torch.from_numpy(np.isin(members, site.channels(s.indices(site)))) for s in sets])

    def _rows(self) -> torch.Tensor:
        """Which of the site's masked channels each row of this pass has masked, ``[rows, members]``."""
        return self._masked if self._layout is None else self._masked[self._layout.rows]

    def __call__(self, x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
        import torch

        applied, site = self._applied, self._applied.site
        applied.check_width(x)
        self._masked, applied.channels = self._masked.to(x.device), applied.channels.to(x.device)
        masked = self._rows()
        rows = len(masked)
        if routed is not None and routed.total % rows == 0:
            where = masked[routed.rows(rows)]  # [routed, members]
        elif x.ndim == 2 and site.component == "language" and len(x) % rows == 0:
            # The tokens of all rows one after the other.
            where = masked.repeat_interleave(len(x) // rows, 0)
        elif x.ndim >= 2 and x.shape[0] == rows:
            where = masked.view(rows, *[1] * (x.ndim - 2), -1)
        else:
            raise NeuronSetError(
                f"per-sample masks at {site.path}: {rows} sets for an activation of shape {tuple(x.shape)}; "
                "expected one set for each row of the batch"
            )
        part = x.index_select(-1, applied.channels)
        return x.index_copy(-1, applied.channels, torch.where(where, applied.new(part, routed), part))


def _statistic(act: Intervention, site: Site, name: str, statistics: Statistics) -> np.ndarray:
    values = statistics.get(name, {}).get(site.key)
    if values is None:
        raise OptionError(f"{act.id!r} needs the {name} of {site.key}; it was not measured")
    return values
