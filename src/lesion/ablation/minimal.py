"""The minimal set: a subset that collapses the model while none of its leave-one-outs does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lesion.ablation.search import Search
from lesion.core.neurons import Neuron, NeuronSet


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
    """Asks about each set once, and tries no more of them than allowed."""

    def __init__(self, limit: int | None, room: int) -> None:
        self._limit, self._room = limit, room
        self._known: dict[NeuronSet, bool] = {}
        self._tried: set[NeuronSet] = set()

    def first(self, candidates: Sequence[Sequence[Neuron]]) -> Search[NeuronSet, bool, int | None]:
        """The place of the first candidate that collapses the model; None where none does."""
        sets = [NeuronSet(neurons) for neurons in candidates]
        for i, neurons in enumerate(sets):
            if neurons not in self._tried:
                if self._limit is not None and len(self._tried) >= self._limit:
                    raise _OutOfTrials
                if neurons not in self._known:
                    new = list(dict.fromkeys(n for n in sets[i:] if n not in self._known))[: self._room]
                    self._known.update(zip(new, (yield new), strict=True))
                self._tried.add(neurons)
            if self._known[neurons]:
                return i
        return None

    def __len__(self) -> int:
        return len(self._tried)


def backward_elimination(neurons: Sequence[Neuron], room: int = 1) -> Search[NeuronSet, bool, Minimal]:
    """Takes neurons away one by one, the least important first, as long as the rest still collapses the model.

    Collapse need not be monotone in the set, so passes are repeated until one takes nothing away: that last pass has
    tried every leave-one-out of what it returns, and is the certificate that it is 1-minimal. For a handful; n neurons
    take up to n (n + 1) / 2 trials.

    Args:
        neurons: A set that collapses the model, the most important first.
        room: How many sets are asked about at a time.

    Yields:
        Batches of sets, each set once; it is sent whether each collapses the model.
    """
    kept, trials = list(neurons), _Trials(None, room)
    removed = True
    while removed:
        removed, last = False, len(kept)
        # Those behind ``last`` were tried in this pass.
        while last > 0 and len(kept) > 1:
            order = list(reversed(range(last)))
            at = yield from trials.first([kept[:i] + kept[i + 1 :] for i in order])
            if at is None:
                break
            last = order[at]
            del kept[last]
            removed = True
    return Minimal(NeuronSet(kept), True, len(trials))


def delta_debug(neurons: Sequence[Neuron], limit: int | None = None, room: int = 1) -> Search[NeuronSet, bool, Minimal]:
    """The delta debugging of Zeller and Hildebrandt (2002, ``ddmin``): takes whole parts away before single neurons.

    For large sets: where most neurons are not needed, it takes a number of trials that grows with the logarithm of the
    set, where :func:`backward_elimination` tries each neuron. It ends when the parts are single neurons and neither one
    of them alone nor all but one collapses the model, so its end is a certificate too.

    Args:
        neurons: A set that collapses the model, the most important first.
        limit: Stop after so many trials with the smallest set so far, not verified.
        room: How many sets are asked about at a time.

    Yields:
        Batches of sets, each set once; it is sent whether each collapses the model.
    """
    kept, trials, parts = list(neurons), _Trials(limit, room), 2
    try:
        while len(kept) > 1:
            cuts = [round(len(kept) * i / parts) for i in range(parts + 1)]
            chunks = [kept[start:end] for start, end in pairwise(cuts)]
            # The most important part is the likeliest to do it alone, the least important the likeliest to be needless.
            alone = yield from trials.first(chunks)
            if alone is not None:
                kept, parts = chunks[alone], 2
                continue
            rests = [_without(kept, chunk) for chunk in reversed(chunks)]
            without = yield from trials.first(rests)
            if without is not None:
                kept, parts = rests[without], max(parts - 1, 2)
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
