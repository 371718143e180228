"""Controls: sets of the same size as the critical one, drawn by chance; if they collapse the model too, size was all."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np

from lesion.importance import Importance
from lesion.neurons import NeuronSet
from lesion.ranking import Ranking
from lesion.sites import Site

Draw = Callable[[NeuronSet, Ranking, Importance, np.random.Generator], dict[Site, np.ndarray]]
NEAREST = 20
"""A matched control takes, for each critical neuron, one of the so many nearest in mean activation magnitude."""


class NotEnoughNeurons(Exception):  # noqa: N818 (a finding about the model, which the caller records)
    """There are fewer other neurons than the control needs."""


def _random(critical: NeuronSet, ranking: Ranking, activation: Importance, rng: np.random.Generator) -> dict[Site, np.ndarray]:
    """Anywhere among the ranked sites."""
    free = {site: _others(site, critical) for site in ranking.sites}
    owner = np.repeat(np.arange(len(free)), [len(v) for v in free.values()])
    index = np.concatenate(list(free.values()))
    if len(index) < len(critical):
        raise NotEnoughNeurons
    chosen = rng.choice(len(index), len(critical), replace=False)
    return {site: index[chosen[owner[chosen] == i]] for i, site in enumerate(free)}


def _layers(critical: NeuronSet, ranking: Ranking, activation: Importance, rng: np.random.Generator) -> dict[Site, np.ndarray]:
    """As many in each site as the critical set has there."""
    drawn = {}
    for site in critical.sites:
        others, wanted = _others(site, critical), len(critical.indices(site))
        if len(others) < wanted:
            raise NotEnoughNeurons
        drawn[site] = rng.choice(others, wanted, replace=False)
    return drawn


def _magnitude(
    critical: NeuronSet, ranking: Ranking, activation: Importance, rng: np.random.Generator
) -> dict[Site, np.ndarray]:
    """For each critical neuron, one that is about as active."""
    sites = list(ranking.sites)
    values = np.concatenate([activation.values(s) for s in sites])
    owner = np.repeat(np.arange(len(sites)), [s.width for s in sites])
    index = np.concatenate([np.arange(s.width) for s in sites])
    free = np.concatenate([~np.isin(np.arange(s.width), critical.indices(s)) for s in sites])
    chosen = []
    for neuron in critical:
        if not free.any():
            raise NotEnoughNeurons
        candidates = np.flatnonzero(free)
        distance = np.abs(values[candidates] - activation.values(neuron.site)[neuron.index])
        # argpartition finds the nearest without sorting everything; the sort makes the draw the same everywhere.
        near = np.argpartition(distance, min(NEAREST, len(distance)) - 1)[:NEAREST]
        pick = rng.choice(np.sort(candidates[near]))
        free[pick] = False
        chosen.append(pick)
    picked = np.array(chosen)
    return {site: index[picked[owner[picked] == i]] for i, site in enumerate(sites)}


def _others(site: Site, critical: NeuronSet) -> np.ndarray:
    return np.setdiff1d(np.arange(site.width), critical.indices(site))


KINDS: dict[str, Draw] = {"random": _random, "layers": _layers, "magnitude": _magnitude}


def draw(kind: str, seed: int, critical: NeuronSet, ranking: Ranking, activation: Importance) -> NeuronSet | None:
    """A control set of the critical set's size, without any of its members.

    Args:
        kind: ``random`` (anywhere), ``layers`` (the same sites) or ``magnitude`` (about as active).
        seed: The same seed draws the same set.
        critical: What it is a control for.
        ranking: Says which sites take part.
        activation: Mean activation magnitudes.

    Returns:
        The set; None where there are not enough other neurons.
    """
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    try:
        return NeuronSet.from_arrays(KINDS[kind](critical, ranking, activation, rng))
    except NotEnoughNeurons:
        return None


def upper_bound(fallen: int, drawn: int, confidence: float = 0.95) -> float:
    """The largest share of all such sets that could collapse the model, given how many of those drawn do.

    One-sided Clopper-Pearson bound: the share at which so few, or fewer, would be drawn with probability
    ``1 - confidence``. With none of 10 it is 26 %, with none of 100 it is 3 %.

    Args:
        fallen: How many of the drawn sets collapse the model.
        drawn: At least 1.
        confidence: Between 0 and 1.
    """

    def so_few(share: float) -> float:
        return sum(math.comb(drawn, i) * share**i * (1 - share) ** (drawn - i) for i in range(fallen + 1))

    if fallen == drawn:
        return 1.0
    low, high = fallen / drawn, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if so_few(middle) > 1 - confidence else (low, middle)
    return high
