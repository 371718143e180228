"""The card of a checkpoint that lesion wrote: what was done to which model, and how it was verified."""

from __future__ import annotations

from collections.abc import Callable

from lesion.core.identity import Identity
from lesion.core.neurons import NeuronSet
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.remedy import Change

NEURONS, CARD = "neurons.json", "README.md"
LISTED = 20
"""So many neurons are named."""


def masked_card(vlm: VisionLanguageModel, neurons: NeuronSet, samples: int) -> Callable[[float], str]:
    """Of a model with neurons masked; made from the difference of log-probabilities.

    Args:
        vlm: The model before that.
        neurons: The neurons.
        samples: On how many it was verified.
    """
    identity = vlm.identity()

    def card(difference: float) -> str:
        return f"""# {vlm.name} with {len(neurons):,} neurons masked

The model {identity}, in which these neurons were set to zero for good by lesion. It is made to study what they do,
and is worse than the original.

{listed(neurons)}

Masked are the columns of the out-projections that these units write through, or the rows that these channels are; every other
weight is the original's. Loaded again, it gave the same answers on {samples} samples as the original with the mask applied by
hooks, and log-probabilities that differ by at most {difference:.1g} of the largest.
"""

    return card


def listed(neurons: NeuronSet) -> str:
    """The first of the neurons, as a list."""
    members = [f"- {neuron}" for _, neuron in zip(range(LISTED), neurons, strict=False)]
    more = [f"- and {len(neurons) - LISTED:,} more, in `{NEURONS}`"] if len(neurons) > LISTED else []
    return "\n".join([*members, *more])


def hardened_card(
    name: str, original: Identity, neurons: NeuronSet, change: Change, samples: int, difference: float, cost: str = ""
) -> str:
    """Of a model after a remedy.

    Args:
        name: The model's.
        original: The model before that.
        neurons: For which it is a remedy.
        change: What was done.
        samples: On how many it was verified.
        difference: Of log-probabilities, as a share of the largest.
        cost: Of a change that is not exact, in a sentence.
    """
    same = " It computes the same but for rounding." if change.exact else ""
    paid = f"{cost}.\n" if cost else ""
    like = "the original" if change.exact else "before it was written"
    return f"""# {name} with {change.title}

The model {original}, {change.done}{same}

{listed(neurons)}

{change.otherwise} Loaded again, it gave the same answers on {samples} samples
as {like}, and log-probabilities that differ by at most {difference:.1g} of the largest.
{paid}"""
