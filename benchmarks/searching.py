"""Finding k* by doubling and halving, beside trying one neuron more at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.cases import LONGEST, Bench
from benchmarks.peers import Hooks
from benchmarks.timing import Row, row, seconds
from lesion.ablation.measure import Ablation, Entry
from lesion.core.collapse import detect_collapse
from lesion.core.criterion import COLLAPSE_DECADES, CRITERIA
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood
from lesion.core.progress import Silent
from lesion.hooks.intervention import Zero


class Memory:
    """Keeps evaluations and readings, as a run directory does."""

    def __init__(self) -> None:
        self._evaluations: dict[str, Evaluation] = {}
        self._readings: dict[str, Sequence[Likelihood]] = {}

    def evaluation(self, key: str) -> Evaluation | None:
        return self._evaluations.get(key)

    def add_evaluations(self, entries: Sequence[Entry]) -> None:
        self._evaluations |= {key: evaluation for key, _, evaluation in entries}

    def reading(self, key: str) -> Sequence[Likelihood] | None:
        return self._readings.get(key)

    def add_readings(self, readings: Sequence[tuple[str, int, Sequence[Likelihood]]]) -> None:
        self._readings |= {key: reading for key, _, reading in readings}


def searching(bench: Bench, role: str) -> Row:
    """k* of a random order, by the perplexity of the intact answers; both search once.

    The peer stops as soon as it knows k*: each step is one pass over the samples and their intact answers, and nothing is
    answered. lesion has the answers of every point of its curve at the end.
    """
    ranking, criterion = bench.ranking("random", role), CRITERIA["perplexity"]
    evaluator = bench.evaluator()
    curves: list[Curve] = []
    linear: list[int] = []

    def ours() -> None:
        ablation = Ablation(lambda: evaluator, Zero(), criterion, lambda n: n.digest, Memory(), Silent())
        curves.append(ablation.curve(ranking))

    def theirs() -> None:
        loop = Hooks(bench.vlm, bench.prompts, bench.answers, LONGEST, bench.count)
        lengths = torch.tensor([float(len(a.ids)) for a in bench.answers])

        def nll(neurons: NeuronSet) -> float:
            with bench.vlm.prepared(), torch.inference_mode():
                means = torch.tensor(loop.likelihood(neurons))
            return float((means * lengths).sum() / lengths.sum())

        intact, k = nll(NeuronSet()), 1
        while not nll(ranking.top(k)) - intact >= COLLAPSE_DECADES * math.log(10):
            k += 1
        linear.append(k)

    timed = row("", bench.name, "", [(seconds(ours), seconds(theirs))], ">= 30")
    k_star = detect_collapse(curves[0], criterion=criterion).k_star
    # A random order's perplexity goes up and down: the first k at which it is tenfold need not be the one that halving finds.
    assert k_star is not None and linear[0] <= k_star
    name = f"k* = {k_star:,} of a random order, {len(curves[0].ks)} points, {bench.count} samples"
    return replace(timed, name=name, peer_name=f"one neuron more at a time, up to {linear[0]:,}")
