"""Relevance patching (RelP, arXiv 2508.21258) with zero as the patch: the activation times its relevance coefficient.

The coefficient is the gradient of the loss through the linearised model (:mod:`lesion.hooks.relevance`), which neither
norms nor saturated activation functions attenuate. The score is the size of what RelP gives for a neuron that is set to 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lesion.scoring.options import ScoreOptions
from lesion.scoring.registry import aggregate, register

if TYPE_CHECKING:
    import torch


@register("relp", "positions", needs="relevance")
def _relp(a: torch.Tensor, g: torch.Tensor, tokens: torch.Tensor, options: ScoreOptions) -> torch.Tensor:
    """|sum over tokens of activation * gradient through the linearised model|: relevance patching (arXiv 2508.21258)."""
    return aggregate(g * a, tokens, "sum").abs()
