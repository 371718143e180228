"""The scorers that take one line each, and the import of those that have a file of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lesion.models.tokens import CLASSES
from lesion.scoring import integrated_gradients, output_share, relp
from lesion.scoring.options import ScoreOptions
from lesion.scoring.registry import SCORERS, Pass, Scorer, aggregate, get_scorer, rankers, register

if TYPE_CHECKING:
    import torch

__all__ = [
    "CLASS_VALUES", "OWN_FILES", "SCORERS", "VALUE", "Pass", "Scorer", "aggregate", "get_scorer", "rankers", "register",
]  # fmt: skip

OWN_FILES = (integrated_gradients, output_share, relp)
"""Modules that register a scorer when they are imported."""


@register("can", "alpha", "aggregate", "positions")
def _can(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """Consistently Activated Neurons: mean |gradient|^alpha * |activation| (arXiv 2512.00918)."""
    # 0 to the power 0 is 1, so that alpha = 0 is activation alone even where no gradient arrives.
    size = (g * a).abs_() if options.alpha == 1 else g.abs().pow_(options.alpha).mul_(a.abs())
    return aggregate(size, tokens, options.aggregate)


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
