"""What is compared: each case checks that both sides give the same, and times them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Hooks, Loop, Measured, Nnsight, zeroed
from benchmarks.timing import Row, compare, row, seconds
from lesion.ablation.evaluator import Evaluator
from lesion.ablation.replies import MaskedReplies
from lesion.ablation.units import Request
from lesion.core.evaluation import Evaluation
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.data.samples import Sample, load_samples
from lesion.hooks.intervene import mask
from lesion.models.inputs import Answer, Prompt
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.score import score

LONGEST = 24
_TIE = 1e-3
POINTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128)
"""The k of a curve."""


@dataclass
class Bench:
    """A model with samples and its own answers to them.

    Attributes:
        name: Of the model.
        count: Number of samples.
        turns: How often each side is timed.
        longest: Tokens of an answer, at most.
    """

    name: str
    count: int
    turns: int
    longest: int = LONGEST
    vlm: VisionLanguageModel = field(init=False)

    def __post_init__(self) -> None:
        self.vlm = load(self.name, dtype="float32")

    @cached_property
    def samples(self) -> list[Sample]:
        return load_samples("prompts" if self.vlm.structure.vision is None else "scenes", self.count)

    @cached_property
    def prompts(self) -> list[Prompt]:
        return [self.vlm.prompt(s) for s in self.samples]

    @cached_property
    def answers(self) -> list[Answer]:
        return self.vlm.generate(self.vlm.embed(self.prompts), self.longest)

    @cached_property
    def language(self) -> Sites:
        return Sites([s for s in self.vlm.sites.select("language", reachable_only=True) if s.role != "head"])

    def ranking(self, scorer: str, role: str) -> Ranking:
        sites = self.vlm.sites.select("language", role, reachable_only=True)
        return Ranking(score(self.vlm.model, sites, self.vlm.batches(self.prompts, self.answers, 8), scorer)[scorer], sites)

    def evaluator(self) -> Evaluator:
        replies = MaskedReplies(self.vlm, self.prompts, self.answers, self.answers, self.longest, 16)
        return Evaluator(self.vlm, self.samples, self.answers, None, replies)


Sides = tuple[Callable[[], Any], Callable[[], Any]]
"""lesion's and the peer's way to do the same."""


def scoring_sides(bench: Bench) -> Sides:
    """All language sites, by CAN, activation and gradient, beside the forward and the backward pass that they need."""
    vlm = bench.vlm

    def bare() -> None:
        with vlm.prepared():
            for batch in vlm.batches(bench.prompts, bench.answers, 8):
                table = vlm.model.get_input_embeddings()
                handle = table.register_forward_hook(lambda m, a, out: out.detach().requires_grad_(True))
                with torch.enable_grad():
                    batch.losses().sum().backward()
                handle.remove()

    def ours() -> None:
        score(vlm.model, bench.language, vlm.batches(bench.prompts, bench.answers, 8))

    return ours, bare


def scoring(bench: Bench) -> Row:
    """What scoring costs beside the passes that it needs."""
    ours, bare = scoring_sides(bench)
    bare()
    ours()
    name = f"scoring {len(bench.language)} sites, three scorers"
    return compare(name, bench.name, "bare forward and backward", ours, bare, "<= 1.1", bench.turns)


def captum_sides(bench: Bench) -> Sides:
    """Activation times gradient of all ``hidden`` units: captum's own layers, all at once. Both return ``[units]``."""
    from captum.attr import LayerGradientXActivation  # pyright: ignore[reportMissingImports]

    vlm = bench.vlm
    sites = vlm.sites.select("language", "hidden", reachable_only=True)
    modules = [vlm.model.get_submodule(site.path) for site in sites]

    def theirs() -> np.ndarray:
        sums = [torch.zeros(site.width, dtype=torch.float64) for site in sites]
        with vlm.prepared():
            for batch in vlm.batches(bench.prompts, bench.answers, 1):
                embeds = vlm.model.get_input_embeddings()(batch.inputs["input_ids"]).detach()

                def loss(x: torch.Tensor, batch: Any = batch) -> torch.Tensor:
                    handle = vlm.model.get_input_embeddings().register_forward_hook(lambda m, a, out: x)
                    try:
                        return batch.losses()
                    finally:
                        handle.remove()

                method = LayerGradientXActivation(loss, modules)
                with torch.enable_grad():
                    parts = method.attribute(embeds.requires_grad_(True), attribute_to_layer_input=True)
                for total, part in zip(sums, parts, strict=True):
                    part = part[0] if isinstance(part, tuple) else part
                    total += part.detach().abs().mean(1).sum(0).double()
        return torch.cat(sums).numpy()

    def ours() -> np.ndarray:
        importance = score(vlm.model, sites, vlm.batches(bench.prompts, bench.answers, 1), "can")["can"]
        return np.concatenate([importance.sums[site.key] for site in sites])

    return ours, theirs


def captum(bench: Bench) -> Row:
    """The same numbers, sooner or later."""
    ours, theirs = captum_sides(bench)
    np.testing.assert_allclose(ours(), theirs(), rtol=1e-3, atol=1e-9)
    return compare("activation times gradient, hidden", bench.name, "captum", ours, theirs, ">= 1", bench.turns)


def one_mask(bench: Bench) -> Row:
    """Generation with one neuron of each layer masked, beside generation without."""
    vlm, contexts = bench.vlm, bench.vlm.embed(bench.prompts)
    neurons = NeuronSet(Neuron(site, 0) for site in vlm.sites.select("language", "down", reachable_only=True))
    # The intact answers have other lengths: both go on to the longest.
    eos, vlm.eos = vlm.eos, []

    def masked() -> None:
        with mask(vlm.model, neurons):
            vlm.generate(contexts, LONGEST)

    def intact() -> None:
        vlm.generate(contexts, LONGEST)

    try:
        masked()
        intact()
        return compare("generation with a mask on", bench.name, "without", masked, intact, "<= 1.05", bench.turns)
    finally:
        vlm.eos = eos


def curve(bench: Bench, scorer: str, role: str, peer: type[Loop], goal: str) -> Row:
    """The same points of one ranking's curve: answers, and three likelihoods of each sample."""
    ranking = bench.ranking(scorer, role)
    loop = peer(bench.vlm, bench.prompts, bench.answers, LONGEST, 16)
    sets = [ranking.top(k) for k in POINTS]

    def ours() -> Any:
        return bench.evaluator().many([Request(neurons) for neurons in sets])

    def theirs() -> list[list[Measured]]:
        with bench.vlm.prepared():
            return [loop.measure(neurons) for neurons in sets]

    tied = ties(bench, sets, ours(), theirs())
    name = f"{len(sets)} points of a curve, {bench.count} samples, {role} by {scorer}"
    timed = compare(name, bench.name, {Hooks: "plain hook loop", Nnsight: "nnsight"}[peer], ours, theirs, goal, bench.turns)
    return replace(timed, ties=tied)


def ties(bench: Bench, sets: Sequence[NeuronSet], ours: Sequence[Evaluation], theirs: Sequence[Sequence[Measured]]) -> int:
    """Checks that answers are identical and likelihoods equal but for rounding.

    Returns:
        How many answers differ, each at a token that is as likely as another but for rounding.

    Raises:
        AssertionError: Something else differs.
    """
    vlm, found = bench.vlm, 0
    for neurons, evaluation, measured in zip(sets, ours, theirs, strict=True):
        for i, (outcome, (ids, reference, own, by_intact)) in enumerate(zip(evaluation.outcomes, measured, strict=True)):
            assert_close(outcome.reference.nll, reference)
            if outcome.answer != vlm.answer(ids).text:
                assert smallest_gap(bench, neurons, i, ids) < _TIE, (outcome.answer, vlm.answer(ids).text)
                found += 1
                continue
            for one, other in ((outcome.generated.nll, own), (outcome.generated_intact.nll, by_intact)):
                assert_close(one, other)
    return found


def assert_close(one: float | None, other: float) -> None:
    """Two likelihoods, but for rounding; one that is not finite is None here."""
    np.testing.assert_allclose(np.nan if one is None else one, other, rtol=1e-3, atol=1e-4)


def smallest_gap(bench: Bench, neurons: NeuronSet, sample: int, ids: Sequence[int]) -> float:
    """How much likelier the likeliest token is than the next, in nats, where that is least in an answer."""
    with zeroed(bench.vlm.model, neurons):
        (log_probs,) = bench.vlm.answer_log_probs(bench.vlm.embed([bench.prompts[sample]]), [Answer(tuple(ids), "")])
    first, second = log_probs.topk(2).values.unbind(1)
    return float((first - second).min())


def singles(bench: Bench, layers: Sequence[int], neurons: int, goal: str, about: str) -> Row:
    """Single hidden units of some layers, each measured by itself; the loop masks one after the other."""
    loop = Hooks(bench.vlm, bench.prompts, bench.answers, LONGEST, 16)
    evaluator, times, tied = bench.evaluator(), [], 0
    evaluator.many([Request(NeuronSet())])  # what is kept of the intact model serves every layer
    for layer in layers:
        site = next(s for s in bench.vlm.sites.select("language", "hidden", reachable_only=True) if s.layer == layer)
        step = site.width // neurons
        sets = [NeuronSet([Neuron(site, i * step)]) for i in range(neurons)]
        found: dict[str, Any] = {}

        def ours(sets: Any = sets, found: Any = found) -> None:
            found["ours"] = evaluator.many([Request(s) for s in sets])

        def theirs(sets: Any = sets, found: Any = found) -> None:
            with bench.vlm.prepared():
                found["theirs"] = [loop.measure(s) for s in sets]

        times.append((seconds(ours), seconds(theirs)))
        tied += ties(bench, sets, found["ours"], found["theirs"])
    name = f"single hidden units, {neurons} of {about}, {bench.count} samples"
    ours_all, theirs_all = (sum(of) for of in zip(*times, strict=True))
    ratio = theirs_all / ours_all  # the mean over the layers, not the median layer
    timed = row(name, bench.name, "one by one with hooks", times, goal)
    return replace(timed, ours=ours_all, peer=theirs_all, ratio=ratio, reached=ratio >= float(goal.split()[1]), ties=tied)
