"""The minimal set: a subset that collapses the model while none of its leave-one-outs does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lesion.neurons import Neuron, NeuronSet


def backward_elimination(neurons: Sequence[Neuron], collapses: Callable[[NeuronSet], bool]) -> NeuronSet:
    """Takes neurons away, the least important first, as long as the rest still collapses the model.

    Collapse need not be monotone in the set, so passes are repeated until one takes nothing away: that last pass has
    tried every leave-one-out of what it returns, and is the certificate that it is 1-minimal.

    Args:
        neurons: A set that collapses the model, the most important first.
        collapses: Whether masking a set collapses the model. Sets may be asked for again.

    Returns:
        The 1-minimal set.
    """
    kept = list(neurons)
    removed = True
    while removed:
        removed = False
        for neuron in list(reversed(kept)):
            rest = [n for n in kept if n != neuron]
            if rest and collapses(NeuronSet(rest)):
                kept, removed = rest, True
    return NeuronSet(kept)
