"""The minimal set: a subset that collapses the model while none of its leave-one-outs does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lesion.neurons import Neuron, NeuronSet

Collapses = Callable[[NeuronSet], bool]


@dataclass(frozen=True)
class Minimal:
    """What a search for a minimal set found.

    Attributes:
        neurons: A set that collapses the model.
        verified: Every leave-one-out of it was tried, and none collapses the model.
        tried: How many different sets were tried.
    """

    neurons: NeuronSet
    verified: bool
    tried: int


class _OutOfTrials(Exception):  # noqa: N818 (the search's own stop sign)
    pass


class _Trials:
    """Asks about each set once, and no more often than allowed."""

    def __init__(self, collapses: Collapses, limit: int | None) -> None:
        self._collapses, self._limit = collapses, limit
        self._known: dict[NeuronSet, bool] = {}

    def __call__(self, neurons: Sequence[Neuron]) -> bool:
        asked = NeuronSet(neurons)
        if asked not in self._known:
            if self._limit is not None and len(self._known) >= self._limit:
                raise _OutOfTrials
            self._known[asked] = self._collapses(asked)
        return self._known[asked]

    def __len__(self) -> int:
        return len(self._known)


def backward_elimination(neurons: Sequence[Neuron], collapses: Collapses) -> Minimal:
    """Takes neurons away one by one, the least important first, as long as the rest still collapses the model.

    Collapse need not be monotone in the set, so passes are repeated until one takes nothing away: that last pass has
    tried every leave-one-out of what it returns, and is the certificate that it is 1-minimal. For a handful; n neurons
    take up to n (n + 1) / 2 trials.

    Args:
        neurons: A set that collapses the model, the most important first.
        collapses: Whether masking a set collapses the model; asked once about each set.
    """
    kept, trials = list(neurons), _Trials(collapses, None)
    removed = True
    while removed:
        removed = False
        for neuron in list(reversed(kept)):
            rest = [n for n in kept if n != neuron]
            if rest and trials(rest):
                kept, removed = rest, True
    return Minimal(NeuronSet(kept), True, len(trials))


def delta_debug(neurons: Sequence[Neuron], collapses: Collapses, limit: int | None = None) -> Minimal:
    """The delta debugging of Zeller and Hildebrandt (2002, ``ddmin``): takes whole parts away before single neurons.

    For large sets: where most neurons are not needed, it takes a number of trials that grows with the logarithm of the
    set, where :func:`backward_elimination` tries each neuron. It ends when the parts are single neurons and neither one
    of them alone nor all but one collapses the model, so its end is a certificate too.

    Args:
        neurons: A set that collapses the model, the most important first.
        collapses: Whether masking a set collapses the model; asked once about each set.
        limit: Stop after so many trials with the smallest set so far, not verified.
    """
    kept, trials, parts = list(neurons), _Trials(collapses, limit), 2
    try:
        while len(kept) > 1:
            cuts = [round(len(kept) * i / parts) for i in range(parts + 1)]
            chunks = [kept[start:end] for start, end in pairwise(cuts)]
            # The most important part is the likeliest to do it alone, the least important the likeliest to be needless.
            alone = next((chunk for chunk in chunks if trials(chunk)), None)
            if alone is not None:
                kept, parts = alone, 2
                continue
            without = next((rest for chunk in reversed(chunks) if trials(rest := _without(kept, chunk))), None)
            if without is not None:
                kept, parts = without, max(parts - 1, 2)
            elif parts == len(kept):
                break
            else:
                parts = min(2 * parts, len(kept))
    except _OutOfTrials:
        return Minimal(NeuronSet(kept), False, len(trials))
    return Minimal(NeuronSet(kept), True, len(trials))


def _without(neurons: Sequence[Neuron], part: Sequence[Neuron]) -> list[Neuron]:
    gone = set(part)
    return [n for n in neurons if n not in gone]
