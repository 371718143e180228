"""Other ways to look for a small collapsing set, as searches that ask the same questions as lesion's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesion.ablation.harm import Harm
from lesion.ablation.search import Search
from lesion.core.neurons import Neuron, NeuronSet

Rival = Search[NeuronSet, Harm, None]
POPULATION, ELITE = 32, 8


def prefix(order: Sequence[Neuron]) -> Rival:
    """The first 1, 2, 4, 8, ... of an order, and then the least number of them that collapses the model."""
    low, high = 0, 1
    while not (yield [NeuronSet(order[:high])])[0].collapsed:
        if high == len(order):
            return
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if (yield [NeuronSet(order[:middle])])[0].collapsed else (middle, high)


def greedy(shortlist: Sequence[Neuron]) -> Rival:
    """Adds the neuron that does most harm beside those that were added before."""
    chosen: list[Neuron] = []
    while len(chosen) < len(shortlist):
        sets = [NeuronSet([*chosen, n]) for n in shortlist if n not in chosen]
        harms = yield sets
        best = max(range(len(sets)), key=lambda i: harms[i].rise)
        chosen.append(next(n for n in sets[best] if n not in chosen))
        if harms[best].collapsed:
            return


def genetic(shortlist: Sequence[Neuron], seed: int) -> Rival:
    """A genetic search: what collapses the model is fitter the smaller it is, the rest the more harm it does a neuron."""
    rng, count = np.random.default_rng(seed), len(shortlist)
    known: dict[bytes, tuple[float, float]] = {}
    population = [rng.random(count) < rng.uniform(1 / count, 0.5) for _ in range(POPULATION)]
    while True:
        new = list({genes.tobytes(): genes for genes in population if genes.any() and genes.tobytes() not in known}.values())
        if new:
            harms = yield [NeuronSet(shortlist[i] for i in np.flatnonzero(genes).tolist()) for genes in new]
            for genes, harm in zip(new, harms, strict=True):
                size = float(genes.sum())
                known[genes.tobytes()] = (1.0, -size) if harm.collapsed else (0.0, harm.rise)
        parents = sorted((g for g in population if g.any()), key=lambda g: known[g.tobytes()], reverse=True)[:ELITE]
        population = [*parents, *(_child(parents, rng) for _ in range(POPULATION - len(parents)))]


def _child(parents: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Each gene of one of two parents; then a gene is dropped, added or exchanged."""
    one, two = (parents[int(rng.integers(len(parents)))] for _ in range(2))
    child = np.where(rng.random(len(one)) < 0.5, one, two)
    if child.any() and rng.random() < 0.7:
        child[rng.choice(np.flatnonzero(child))] = False
    if rng.random() < 0.5:
        child[rng.integers(len(child))] = True
    return child
