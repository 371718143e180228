"""Scorers: how one sample's activations and gradients at a site become one number a neuron.

A scorer is given, for one site and a batch, the activation ``a`` and the gradient ``g = dLoss/da`` (float32,
``[rows, tokens, width]``) and the tokens that count (bool, ``[rows, tokens]``), and returns ``[rows, width]``. The mean
over samples is taken by :mod:`lesion.scoring`. ``@register`` adds one; the command line lists what is registered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lesion.errors import OptionError

if TYPE_CHECKING:
    import torch

    Reduce = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "ScoreOptions"], torch.Tensor]

Aggregate = Literal["mean", "max", "sum", "last"]
Positions = Literal["all", "image", "prompt", "answer", "first"]
AGGREGATES: tuple[Aggregate, ...] = ("mean", "max", "sum", "last")
POSITIONS: tuple[Positions, ...] = ("all", "image", "prompt", "answer", "first")


@dataclass(frozen=True)
class ScoreOptions:
    """Every choice that the paper (arXiv 2512.00918) leaves open, with its default.

    Attributes:
        alpha: Exponent of the gradient in CAN, 0 (activation alone) to 1.
        aggregate: How a sample's tokens become one number.
        positions: Which tokens of the language model count. Vision, connector and Q-Former count all of theirs.
        top: The share of neurons that is called "top" in a neuron's consistency.
        seed: For the random scorer.

    Raises:
        OptionError: A value out of its range.
    """

    alpha: float = 1.0
    aggregate: Aggregate = "mean"
    positions: Positions = "all"
    top: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise OptionError(f"alpha is {self.alpha}; expected a number from 0 to 1")
        if not 0 < self.top <= 1:
            raise OptionError(f"top is {self.top}; expected a share above 0 and at most 1")
        for name, known in (("aggregate", AGGREGATES), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Scorer:
    """A named way to score; ``reduce`` is None where no pass over the data is needed (random)."""

    name: str
    reduce: Reduce | None
    about: str
    uses: tuple[str, ...] = field(default=())
    """Options that change its result; the others are not recorded with it."""
    ranks: bool = True
    """False for what is measured in the same pass but is no importance."""


SCORERS: dict[str, Scorer] = {}


def register(name: str, *uses: str) -> Callable[[Reduce], Reduce]:
    """Adds a scorer under a name; its docstring's first line is what users read.

    Raises:
        ValueError: The name is taken.
    """

    def add(reduce: Reduce) -> Reduce:
        if name in SCORERS:
            raise ValueError(f"a scorer named {name!r} is registered already")
        SCORERS[name] = Scorer(name, reduce, (reduce.__doc__ or "").strip().split("\n")[0], uses)
        return reduce

    return add


def get_scorer(name: str) -> Scorer:
    """The scorer of a name.

    Raises:
        OptionError: None has it; the message lists those there are.
    """
    if name not in SCORERS:
        raise OptionError(f"scorer {name!r} is unknown; available: {', '.join(rankers())}")
    return SCORERS[name]


def rankers() -> list[str]:
    """Names of the scorers that a ranking can be made from."""
    return sorted(s.name for s in SCORERS.values() if s.ranks)


def aggregate(values: torch.Tensor, tokens: torch.Tensor, how: str) -> torch.Tensor:
    """One number a row and neuron from one a token.

    Args:
        values: ``[rows, tokens, width]``.
        tokens: Which tokens count, bool ``[rows, tokens]``; a row in which none does gets 0.
        how: ``mean``, ``max``, ``sum`` or ``last`` (of the tokens that count).
    """
    import torch

    chosen = tokens.unsqueeze(-1)
    kept = torch.where(chosen, values, 0)
    if how == "sum":
        return kept.sum(1)
    if how == "mean":
        return kept.sum(1) / chosen.sum(1).clamp(min=1)
    if how == "max":
        return torch.where(chosen, values, -torch.inf).amax(1).nan_to_num(neginf=0.0, nan=torch.nan, posinf=torch.inf)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(tokens, places, 0).amax(1)
    return kept[torch.arange(len(kept), device=kept.device), last]


@register("can", "alpha", "aggregate", "positions")
def _can(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Consistently Activated Neurons: mean |gradient|^alpha * |activation| (arXiv 2512.00918)."""
    # 0 to the power 0 is 1, so that alpha = 0 is activation alone even where no gradient arrives.
    return aggregate(g.abs().pow(options.alpha) * a.abs(), tokens, options.aggregate)


@register("activation", "aggregate", "positions")
def _activation(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Mean |activation|; CAN with alpha = 0."""
    return aggregate(a.abs(), tokens, options.aggregate)


@register("gradient", "aggregate", "positions")
def _gradient(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Mean |gradient of the loss|."""
    return aggregate(g.abs(), tokens, options.aggregate)


@register("taylor", "positions")
def _taylor(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """|sum over tokens of gradient * activation|: first-order change of the loss when masked (arXiv 1611.06440)."""
    return aggregate(g * a, tokens, "sum").abs()


def _value(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    return aggregate(a, tokens, "mean")


VALUE = "value"
"""The mean value of each neuron over every token, with its sign: what a mean mask puts in its place."""
SCORERS[VALUE] = Scorer(VALUE, _value, "Mean activation, with its sign: the value that a mean mask sets.", ranks=False)
SCORERS["random"] = Scorer("random", None, "A random order, from the seed: what a ranking must beat.", ("seed",))
