"""Scorers: how one sample's activations and gradients at a site become one number a neuron.

A scorer is given, for one site and a batch, the activation ``a`` and a second tensor ``g`` (float32, ``[rows, tokens,
channels]``) and the tokens that count (bool, ``[rows, tokens]``), and returns ``[rows, channels]``. ``g`` is the gradient
``dLoss/da``; for a scorer of the perturbed pass it is the activation under noise, for one of the forward pass it is ``a``
again. Where several channels are one neuron (an attention head), their scores are added. The mean over samples is taken by
:mod:`lesion.scoring.score`. ``@register`` adds one; the command line lists what is registered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lesion.core.errors import OptionError
from lesion.models.tokens import CLASSES
from lesion.scoring.options import ScoreOptions

if TYPE_CHECKING:
    import torch

    Reduce = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "ScoreOptions"], torch.Tensor]

Pass = Literal["forward", "gradient", "perturbed"]
"""What is run for a scorer: one forward pass; one forward and one backward; one forward of every sample, intact and noisy."""


@dataclass(frozen=True)
class Scorer:
    """A named way to score.

    Attributes:
        name: As users give it.
        reduce: See the module; None where no pass over the data is needed (random).
        about: One line for users.
        uses: Options that change its result; the others are not recorded with it.
        needs: The pass that it is computed in; ``forward`` for one that reads the activation alone.
        by_weight: Multiplied by the norm of what each neuron's weights write (see :func:`lesion.scoring.score.out_norms`).
        positions: Tokens that it counts whatever the option says; None to go by the option.
        ranks: False for what is measured in the same pass but is no importance.
    """

    name: str
    reduce: Reduce | None
    about: str
    uses: tuple[str, ...] = field(default=())
    needs: Pass = "gradient"
    by_weight: bool = False
    positions: str | None = None
    ranks: bool = True

    def passes(self, options: ScoreOptions) -> tuple[int, int]:
        """Forward and backward passes a sample that it takes by itself; with others it shares them."""
        if self.reduce is None:
            return 0, 0
        if self.needs == "perturbed":
            return 2, 0
        return 1, int(self.pass_for(options) == "gradient")

    def pass_for(self, options: ScoreOptions) -> Pass:
        """The pass that it is computed in; CAN with alpha 0 is activation alone, and needs no backward pass."""
        return "forward" if self.needs == "gradient" and "alpha" in self.uses and options.alpha == 0 else self.needs


SCORERS: dict[str, Scorer] = {}


def register(
    name: str, *uses: str, needs: Pass = "gradient", by_weight: bool = False
) -> Callable[[Reduce], Reduce]:
    """Adds a scorer under a name; its docstring's first line is what users read. The rest as in :class:`Scorer`.

    Raises:
        ValueError: The name is taken.
    """

    def add(reduce: Reduce) -> Reduce:
        if name in SCORERS:
            raise ValueError(f"a scorer named {name!r} is registered already")
        about = (reduce.__doc__ or "").strip().split("\n")[0]
        SCORERS[name] = Scorer(name, reduce, about, uses, needs, by_weight)
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
        values: ``[rows, tokens, channels]``.
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


@register("activation", "aggregate", "positions", needs="forward")
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


@register("wanda", "aggregate", "positions", needs="forward", by_weight=True)
def _wanda(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Mean |activation| times the norm of the neuron's column in the out-projection (after arXiv 2306.11695)."""
    return aggregate(a.abs(), tokens, options.aggregate)


@register("superweight", "positions", needs="forward")
def _superweight(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Largest |activation| at a single token (after arXiv 2411.07191)."""
    return aggregate(a.abs(), tokens, "max")


@register("perturbation", "aggregate", "positions", "noise", "seed", needs="perturbed")
def _perturbation(a: torch.Tensor, noisy: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Mean |change of the activation| when noise is added to the pixels and to the language model's input."""
    return aggregate((noisy - a).abs(), tokens, options.aggregate)


def _value(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    return aggregate(a, tokens, "mean")


VALUE = "value"
"""The mean value of each channel over every token, with its sign: what a mean mask puts in its place."""
CLASS_VALUES = {name: f"value of {name}" for name in CLASSES}
"""The same over the tokens of each class, where the site is the language model's."""
for _name, _tokens in {VALUE: "all", **{CLASS_VALUES[name]: f"{name} class" for name in CLASSES}}.items():
    _about = "Mean activation, with its sign, for mean masks."
    SCORERS[_name] = Scorer(_name, _value, _about, needs="forward", positions=_tokens, ranks=False)
SCORERS["random"] = Scorer("random", None, "A random order, from the seed: what a ranking must beat.", ("seed",))
