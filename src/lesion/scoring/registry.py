"""The registry of scorers: what a scorer is, how one is added, and how a sample's tokens become one number.

A scorer is given, for one site and a batch, the activation ``a`` and a second tensor ``g`` (float32, ``[rows, tokens,
channels]``) and the tokens that count (bool, ``[rows, tokens]``), and returns ``[rows, channels]``. What ``g`` is depends on
the pass that the scorer is computed in (:data:`Pass`). Where several channels are one neuron (an attention head), their scores
are added. The mean over samples is taken by :mod:`lesion.scoring.score`. ``@register`` adds one; the command line lists what is
registered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from lesion.core.errors import OptionError
from lesion.core.sites import Site
from lesion.scoring.options import ScoreOptions

if TYPE_CHECKING:
    import torch

    Reduce = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "ScoreOptions"], torch.Tensor]
    Pair = tuple[torch.Tensor, torch.Tensor]
    """The activation and the second tensor of one call of a site's module."""

Pass = Literal["forward", "gradient", "perturbed", "residual", "relevance", "path"]
"""What is run for a scorer, and what its second tensor then is.

==============  ==================================================  ========================================================
``forward``     one forward pass                                    the activation again
``gradient``    one forward and one backward                        the gradient of the loss with respect to the activation
``perturbed``   one forward of every sample, intact and noisy       the activation under noise
``residual``    one forward pass                                    the norm of the residual stream behind the site's layer
``relevance``   one forward and one backward, linearised            the gradient through :mod:`lesion.hooks.relevance`
``path``        many of both, while sites are scaled from 0 to 1    the gradient at each step; the scorer's values may have
                                                                    signs, and the size of their mean over steps counts
==============  ==================================================  ========================================================
"""


class ScoringBatch(Protocol):
    """What :func:`lesion.scoring.score.score` needs of a batch; its length is the number of samples."""

    def __len__(self) -> int: ...

    def losses(self) -> torch.Tensor:
        """Runs the model; per-sample losses ``[rows]``, with the graph."""
        ...

    def tokens(self, site: Site, length: int, positions: str) -> torch.Tensor:
        """Which of a site's tokens count, bool ``[rows, length]``."""
        ...

    def run_perturbed(self, noise: float, seed: int) -> None:
        """Runs the model on every row twice: all rows as they are, then all of them with noise."""
        ...


@dataclass(frozen=True)
class Scorer:
    """A named way to score.

    Attributes:
        name: As users give it.
        reduce: See the module; None where no pass over the data is needed (random).
        about: One line for users.
        uses: Options that change its result; the others are not recorded with it.
        needs: The pass that it is computed in (:data:`Pass`).
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

    def passes(self, options: ScoreOptions, sites: int = 1) -> tuple[int, int]:
        """Forward and backward passes a sample that it takes by itself; with others it may share them.

        Args:
            options: Of the scorer.
            sites: How many reachable sites are scored; only integrated gradients take more passes for more.
        """
        if self.reduce is None:
            return 0, 0
        needs = self.pass_for(options)
        if needs == "path":
            steps = options.ig_steps * (sites if options.ig_path == "layer" else 1)
            return steps, steps
        return 2 if needs == "perturbed" else 1, int(needs in ("gradient", "relevance"))

    @property
    def everywhere(self) -> bool:
        """Whether a study scores every feed-forward site by it, for the map of the model, and not only those it asks about.

        Paths are dear, and relevance and the residual stream are not defined in every part of every model.
        """
        return self.needs not in ("path", "relevance", "residual")

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

    if how == "max":
        largest = torch.where(tokens.unsqueeze(-1), values, -torch.inf).amax(1)
        return largest.nan_to_num(neginf=0.0, nan=torch.nan, posinf=torch.inf)
    if how == "last":
        places = torch.arange(tokens.shape[1], device=tokens.device)
        last = torch.where(tokens, places, 0).amax(1)
        rows = torch.arange(len(values), device=values.device)
        return torch.where(tokens[rows, last].unsqueeze(-1), values[rows, last], 0)
    total = _kept(values, tokens).sum(1)
    return total / tokens.sum(1, keepdim=True).clamp(min=1) if how == "mean" else total


def _kept(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """0 in place of what does not count, even where that is not finite."""
    import torch

    # As torch.where, which is several times slower with a mask that is broadcast: no bit of a number is kept, or all.
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return (values.view(whole) & -tokens.to(whole).unsqueeze(-1)).view(values.dtype)
