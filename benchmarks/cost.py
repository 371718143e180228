"""``python -m benchmarks.cost``: what scoring and masking cost against samples, neurons, layers and tokens.

Drawn beside the least that the machine could take, by operations and by bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from benchmarks.cases import Bench
from benchmarks.timing import machine, seconds
from lesion.ablation.evaluator import Evaluator
from lesion.ablation.replies import MaskedReplies
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Sites
from lesion.models.inputs import Answer
from lesion.report.figures import BLUE, GREY, ORANGE, new_figure, outside_legend, save_figure
from lesion.scoring.score import score

HERE = Path(__file__).parent
SAMPLES, TOKENS, NEURONS = (2, 4, 8, 16), (6, 12, 24, 48), (1, 10, 100, 1000, 10_000)
_MOST = 8
"""Samples where another number grows."""


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        what: ``scoring`` or ``masking``.
        against: What grows.
        value: How far.
        seconds: Median.
        operations: Seconds that its multiplications and additions take at the machine's best rate.
        bytes: Seconds that reading the weights takes, once a pass.
    """

    what: str
    against: str
    value: int
    seconds: float
    operations: float
    bytes: float


class Floor:
    """The machine's best rates, and what a model needs of them."""

    def __init__(self, bench: Bench) -> None:
        config = bench.vlm.model.config.get_text_config()
        self.layers: int = config.num_hidden_layers
        of_layers = sum(p.numel() for name, p in bench.vlm.model.named_parameters() if ".layers." in name)
        self._layer, self._head = of_layers / self.layers, config.vocab_size * config.hidden_size
        x, weight = torch.randn(1024, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
        product = min(seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(50))
        self.rate = 2 * x.shape[0] * weight.numel() / product
        large = torch.ones(2**26)
        self.bandwidth = large.nbytes / min(seconds(large.sum) for _ in range(10))
        self._size = sum(p.nbytes for p in bench.vlm.model.parameters())

    @property
    def firsts(self) -> list[int]:
        """Some of the layers, from the first to the last."""
        return sorted({round(part * (self.layers - 1)) for part in (0, 0.25, 0.5, 0.75, 1)})

    def operations(self, tokens: float, layers: int, heads: float) -> float:
        """Seconds for so many tokens through so many layers, and so many through the head."""
        return 2 * (tokens * layers * self._layer + heads * self._head) / self.rate

    def bytes(self, passes: float) -> float:
        """Seconds for reading all weights so many times."""
        return passes * self._size / self.bandwidth


def scoring(bench: Bench, floor: Floor, turns: int) -> Iterator[Point]:
    """CAN, activation and gradient; weights are frozen, so that a backward pass takes as many operations as a forward one."""
    vlm = bench.vlm

    def point(against: str, value: int, count: int, answers: Sequence[Answer], sites: Sites) -> Point:
        prompts, answers = bench.prompts[:count], list(answers[:count])

        def run() -> None:
            score(vlm.model, sites, vlm.batches(prompts, answers, _MOST))

        first = min(site.layer for site in sites)
        read = sum(p.inputs["input_ids"].shape[1] + len(a.ids) for p, a in zip(prompts, answers, strict=True))
        both = floor.operations(read, floor.layers, read) + floor.operations(read, floor.layers - first, read)
        return Point("scoring", against, value, _median(run, turns), both, floor.bytes(2 * -(-count // _MOST)))

    for count in SAMPLES:
        yield point("samples", count, count, bench.answers, bench.language)
    for first in floor.firsts:
        sites = Sites([s for s in bench.language if s.layer >= first])
        yield point("layers scored", floor.layers - first, _MOST, bench.answers, sites)
    for longest in TOKENS:
        yield point("tokens of an answer", longest, _MOST, _answers(bench, longest), bench.language)


def masking(bench: Bench, floor: Floor, turns: int) -> Iterator[Point]:
    """One mask: answers and likelihoods. What is known of the intact model was computed before."""
    vlm = bench.vlm
    sites = vlm.sites.select("language", "hidden", reachable_only=True)

    def drawn(count: int, first: int) -> NeuronSet:
        """So many neurons of the layers from the first on, by chance; one is of the first layer itself."""
        above, rng = [s for s in sites if s.layer >= first], np.random.default_rng(0)
        places = rng.choice(sum(s.width for s in above), count, replace=False)
        bounds = np.cumsum([0, *(s.width for s in above)])
        parts = zip(above, bounds[:-1], bounds[1:], strict=True)
        inside = {s: places[(places >= low) & (places < high)] - low for s, low, high in parts}
        inside[above[0]] = np.union1d(inside[above[0]], [0])
        return NeuronSet.from_arrays({s: index for s, index in inside.items() if len(index)})

    def point(against: str, value: int, count: int, neurons: NeuronSet, longest: int) -> Point:
        answers = _answers(bench, longest)[:count]
        replies = MaskedReplies(vlm, bench.prompts[:count], answers, answers, longest, max(count, _MOST))
        evaluator, spent = Evaluator(vlm, bench.samples[:count], answers, None, replies), replies.spent
        evaluator(neurons)
        before = (spent.tokens, spent.accepted)
        evaluator(neurons)
        # What was not read in the reference is written, and read by the intact model.
        written = (spent.tokens - before[0]) - (spent.accepted - before[1])
        first = min(site.layer for site in neurons.sites)
        prompts = sum(p.inputs["input_ids"].shape[1] for p in bench.prompts[:count])
        known = sum(len(a.ids) for a in answers)
        reading = floor.operations(prompts + known, floor.layers - first, known)
        operations = reading + 2 * floor.operations(written, floor.layers, written)
        passes = (1 - first / floor.layers) + (longest + 1 if written > count else 0)
        return Point("masking", against, value, _median(lambda: evaluator(neurons), turns), operations, floor.bytes(passes))

    for count in SAMPLES:
        yield point("samples", count, count, drawn(100, 0), 24)
    for first in floor.firsts:
        yield point("layers run", floor.layers - first, _MOST, drawn(100, first), 24)
    for longest in TOKENS:
        yield point("tokens of an answer", longest, _MOST, drawn(100, 0), longest)
    for count in (n for n in NEURONS if n <= sites.neurons):
        yield point("masked neurons", count, _MOST, drawn(count, 0), 24)


def _answers(bench: Bench, longest: int) -> list[Answer]:
    return [bench.vlm.answer(list(a.ids[:longest])) for a in bench.answers]


def _median(run: Callable[[], object], turns: int) -> float:
    run()
    return statistics.median(seconds(run) for _ in range(turns))


def draw(points: Sequence[Point]) -> None:
    """Writes ``cost.svg`` and ``cost.png``."""
    columns = list(dict.fromkeys(p.against for p in points))
    kinds = {kind: list(dict.fromkeys(p.against for p in points if p.what == kind)) for kind in ("scoring", "masking")}
    figure, axes = new_figure(2, max(map(len, kinds.values())), width=3 * len(columns[:4]), height=5)
    for row, (kind, against) in zip(axes, kinds.items(), strict=True):
        for ax in row[len(against) :]:
            ax.set_axis_off()
        for ax, name in zip(row, against, strict=False):
            own = sorted((p for p in points if (p.what, p.against) == (kind, name)), key=lambda p: p.value)
            x = [p.value for p in own]
            ax.plot(x, [p.seconds for p in own], "o-", color=BLUE, markersize=4, label="measured")
            ax.plot(x, [p.operations for p in own], "--", color=ORANGE, label="operations at the machine's best rate")
            ax.plot(x, [p.bytes for p in own], ":", color=GREY, label="weights read once a pass")
            ax.set_xscale("log" if x[-1] > 100 else "linear")
            ax.set_ylim(bottom=0)
            ax.set_xlabel(name)
            ax.set_ylabel(f"{kind}, s")
    outside_legend(figure, axes[0, 0])
    save_figure(figure, HERE, "cost")


def main() -> None:
    """Measures, and writes ``cost.json`` and the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--turns", type=int, default=3, help="how often each is timed")
    asked = parser.parse_args()
    bench = Bench(asked.model, max(SAMPLES), asked.turns, max(TOKENS))
    floor = Floor(bench)
    points = []
    for point in chain(scoring(bench, floor, asked.turns), masking(bench, floor, asked.turns)):
        points.append(point)
        took = f"{point.seconds:.3f} s, at least {point.operations:.3f} and {point.bytes:.3f}"
        print(f"{point.what}, {point.value} {point.against}: {took}", flush=True)
    rates = {"operations a second": floor.rate, "bytes a second": floor.bandwidth}
    content = {"model": asked.model, "machine": machine(), **rates, "points": [asdict(p) for p in points]}
    (HERE / "cost.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(points)


if __name__ == "__main__":
    main()
