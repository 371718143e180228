"""What a guard's constants are worth: perplexities on samples that they were not learnt on."""

from __future__ import annotations

from collections.abc import Sequence

from lesion.ablation.evaluators import evaluator_on
from lesion.ablation.ground import Ground
from lesion.ablation.spent import Spent
from lesion.ablation.units import Request
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import perplexity, pool
from lesion.data.samples import Sample
from lesion.hooks.intervention import FirstMean, Zero
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.guard import Guard
from lesion.remedies.ranges import statistics

BATCH = 8
"""Samples at a time."""

def perplexities(
    vlm: VisionLanguageModel, guard: Guard, act: FirstMean, samples: Sequence[Sample], prompt: str, max_new_tokens: int
) -> list[float | None]:
    """Of the intact model's answers: intact, with the neurons set to zero, with what an intervention leaves of them.

    Args:
        vlm: The model.
        guard: Of the neurons.
        act: The intervention, whose statistics the guard has.
        samples: On which; others than the guard was made on.
        prompt: Where a sample has no question of its own.
        max_new_tokens: Longest answer.

    Returns:
        Three; None where one is not finite.
    """
    prompts = [vlm.prompt(sample, prompt) for sample in samples]
    with vlm.prepared():
        answers = vlm.generate(vlm.embed(prompts), max_new_tokens)
    known = statistics(guard.ranges, vlm.sites)
    ground = Ground([s.id for s in samples], answers, answers, max_new_tokens, BATCH, known)
    evaluator = evaluator_on(vlm, samples, prompts, ground, None, Spent())
    requests = [Request(NeuronSet()), Request(guard.neurons, Zero()), Request(guard.neurons, act)]
    found = {place: reading for group in evaluator.read(requests) for place, reading in group.items()}
    return [perplexity(pool(found[place])) for place in range(len(requests))]
