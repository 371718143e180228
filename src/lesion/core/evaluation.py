"""An :class:`Evaluation`: what was measured of a model with some neurons masked, sample by sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lesion.core.metrics import summarise
from lesion.core.outcome import MODES, SampleOutcome


@dataclass(frozen=True)
class Evaluation:
    """A model with ``k`` neurons masked, measured on some samples.

    Attributes:
        k: How many neurons were masked; 0 for the intact model.
        outcomes: One entry a sample, in the same order in every evaluation of a curve.
        key: Of the line in ``evaluations.jsonl`` that holds it; empty where it is in no run directory.
    """

    k: int
    outcomes: tuple[SampleOutcome, ...]
    key: str = ""

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """Every registered metric (:data:`lesion.core.metrics.METRICS`) over all samples, by name."""
        return summarise(self.outcomes)

    @property
    def modes(self) -> dict[str, float]:
        """Mode -> share of the answers, every mode named."""
        return {mode: sum(o.mode == mode for o in self.outcomes) / max(len(self.outcomes), 1) for mode in MODES}

    @property
    def nll(self) -> np.ndarray:
        """Summed negative log-likelihood of each sample's reference, ``[samples]``; infinite where not finite."""
        return np.array([math.inf if o.reference.nll is None else o.reference.nll * o.reference.tokens for o in self.outcomes])

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each sample's reference, ``[samples]``."""
        return np.array([o.reference.tokens for o in self.outcomes], dtype=float)

    @property
    def clip(self) -> np.ndarray | None:
        """Each sample's CLIP score, ``[samples]``; None without a CLIP model."""
        scores = [o.clip for o in self.outcomes if o.clip is not None]
        return np.array(scores) if len(scores) == len(self.outcomes) else None
