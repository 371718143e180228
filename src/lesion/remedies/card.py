"""The card of a checkpoint that lesion wrote: what was done to which model, and how it was verified."""

from __future__ import annotations

from lesion.core.neurons import NeuronSet
from lesion.models.vlm import VisionLanguageModel

LISTED = 20
"""So many neurons are named."""


def card(vlm: VisionLanguageModel, neurons: NeuronSet, samples: int, difference: float) -> str:
    """In Markdown, for the model that is now in ``vlm`` with the neurons masked."""
    members = [str(neuron) for _, neuron in zip(range(LISTED), neurons, strict=False)]
    more = f"\n- and {len(neurons) - LISTED:,} more, in `neurons.json`" if len(neurons) > LISTED else ""
    return f"""# {vlm.name} with {len(neurons):,} neurons masked

The model {vlm.identity()}, in which these neurons were set to zero for good by lesion. It is made to study what they do,
and is worse than the original.

{chr(10).join(f"- {member}" for member in members)}{more}

Masked are the columns of the out-projections that these units write through, or the rows that these channels are; every other
weight is the original's. Loaded again, it gave the same answers on {samples} samples as the original with the mask applied by
hooks, and log-probabilities that differ by at most {difference:.1g} of the largest.
"""
