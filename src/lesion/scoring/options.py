"""What scoring leaves open: every choice that the paper (arXiv 2512.00918) does not state, with its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lesion.core.errors import OptionError

Aggregate = Literal["mean", "max", "sum", "last"]
Positions = Literal["all", "image", "prompt", "answer", "first"]
Path = Literal["layer", "all"]
AGGREGATES: tuple[Aggregate, ...] = ("mean", "max", "sum", "last")
POSITIONS: tuple[Positions, ...] = ("all", "image", "prompt", "answer", "first")
PATHS: tuple[Path, ...] = ("layer", "all")


@dataclass(frozen=True)
class ScoreOptions:
    """Options of the scorers.

    Attributes:
        alpha: Exponent of the gradient in CAN, 0 (activation alone) to 1.
        aggregate: How a sample's tokens become one number.
        positions: Which tokens of the language model count. Vision, connector and Q-Former count all of theirs.
        top: The share of neurons that is called "top" in a neuron's consistency.
        seed: For the random scorer, and for the perturbation's noise.
        noise: Standard deviation of the perturbation's noise, as a share of that of what it is added to.
        ig_steps: Steps of integrated gradients, from the masked to the intact neurons.
        ig_path: What integrated gradients scale at once: the neurons of one site (``layer``), or ``all`` that are scored.

    Raises:
        OptionError: A value out of its range.
    """

    alpha: float = 1.0
    aggregate: Aggregate = "mean"
    positions: Positions = "all"
    top: float = 0.01
    seed: int = 0
    noise: float = 0.1
    ig_steps: int = 8
    ig_path: Path = "layer"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise OptionError(f"alpha is {self.alpha}; expected a number from 0 to 1")
        if not 0 < self.top <= 1:
            raise OptionError(f"top is {self.top}; expected a share above 0 and at most 1")
        if not self.noise > 0:
            raise OptionError(f"noise is {self.noise}; expected a number above 0")
        if self.ig_steps < 1:
            raise OptionError(f"ig_steps is {self.ig_steps}; expected at least 1")
        for name, known in (("aggregate", AGGREGATES), ("positions", POSITIONS), ("ig_path", PATHS)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
