"""How alike two answers are: sets of neurons, and rankings of the same sites."""

from __future__ import annotations

import numpy as np

from lesion.core.errors import OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking


def jaccard(one: NeuronSet, two: NeuronSet) -> float:
    """Size of what both share over the size of both together, 0 to 1; 1 for two empty sets."""
    together = len(one | two)
    return len(one & two) / together if together else 1.0


def overlap(one: Ranking, two: Ranking, k: int) -> float:
    """Share of one ranking's top k that is among the other's top k, 0 to 1.

    Raises:
        OptionError: k is 0 or less, or larger than the number of ranked neurons.
    """
    if k < 1:
        raise OptionError(f"k is {k}; expected at least 1")
    return len(one.top(k) & two.top(k)) / k


def rank_correlation(one: Ranking, two: Ranking) -> float | None:
    """Spearman's correlation of two rankings over all their neurons, -1 to 1; None where one of them has all equal scores.

    Neurons with equal scores share their mean rank, so that many neurons with a score of 0, ordered by their index in
    every ranking, do not pass for agreement.

    Raises:
        OptionError: The rankings are of different sites.
    """
    keys = [[(s.key, s.width) for s in ranking.sites] for ranking in (one, two)]
    if keys[0] != keys[1]:
        raise OptionError(f"rankings of {len(keys[0])} and {len(keys[1])} different sites cannot be correlated")
    importances = [r.importance for r in (one, two) if r.importance is not None]
    if len(importances) < 2:
        raise OptionError("rankings without scores cannot be correlated")
    first, second = (_mean_ranks(np.concatenate([i.values(s) for s in one.sites])) for i in importances)
    if any(np.ptp(r) == 0 for r in (first, second)):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _mean_ranks(scores: np.ndarray) -> np.ndarray:
    """The rank of each score from 0, smallest first; equal ones share their mean."""
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[group]
