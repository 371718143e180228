"""The smallest set that collapses the model, sought by measuring sets instead of by adding up scores.

A ranking's prefix says how many of *its* first neurons it takes. Whether fewer of another choice would do, no first-order score
can say: neurons that write the same channel may matter together where each alone does nothing. So this search measures. Its
steps, each as far as the budget goes:

1. every neuron of a shortlist, alone;
2. **leaps**: the first 2, 4, 8, ... of the most harmful ones together, and of other orders that are given;
3. **probes**: pairs and triples of neurons that write the same channel; then, from what collapses the model, what is not needed
   is taken away;
4. **a beam**: the most harmful sets of each size, each grown by the neurons that did most harm in their latest trial, those
   that share a channel with a member first, with leaps from the best of them;
5. **backward elimination** of what collapses the model; **swaps** of one member, for a set of that size that does more harm, so
   that it holds on other samples too; then swaps of one and of two members in the most harmful set that is one smaller, until
   that collapses the model as well.

It is an ask-and-tell search (:mod:`lesion.ablation.search`) that knows nothing of models: it is told how harmful each set is.
Nothing in it is drawn at random, and what it asks does not depend on how many questions are answered at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice, pairwise, zip_longest

from lesion.ablation.harm import Harm
from lesion.ablation.search import Search
from lesion.core.neurons import Neuron, NeuronSet

BEAM = 4
"""So many sets of a size are grown."""
WIDTH = 8
"""By so many neurons each."""
CHUNK = 16
"""So many sets are asked about before the search looks at the answers."""
SPARE = (1.25, 1.5, 2.0)
"""Where a leap collapses the model, so many times as long ones are measured too, for samples that need a little more."""
SHARE = 0.2
"""Of the budget, that probes may take, and taking away from the first set that collapses the model before others are grown."""


@dataclass(frozen=True)
class Step:
    """A set that was better than all before: the first that collapses the model, a smaller one, or a more harmful one.

    Attributes:
        spent: How many sets had been measured, this one among them.
        neurons: The set.
        harm: Of the set.
    """

    spent: int
    neurons: NeuronSet
    harm: Harm


@dataclass(frozen=True)
class Smallest:
    """What a search found.

    Attributes:
        sets: Of each size at which a set collapses the model, the most harmful one; the smallest first.
        spent: How many sets were measured.
        steps: How the best so far changed.
        ended: Whether the search came to its end within the budget.
        singles: The shortlist, the most harmful first; what was not measured is left out.
    """

    sets: tuple[NeuronSet, ...]
    spent: int
    steps: tuple[Step, ...]
    ended: bool
    singles: tuple[tuple[Neuron, Harm], ...]


class _Spent(Exception):  # noqa: N818 (the search's own stop sign)
    """The budget is spent."""


Ask = Search[NeuronSet, Harm, None]


def smallest(
    shortlist: Sequence[Neuron], groups: Sequence[Sequence[Neuron]], budget: int, chains: Sequence[Sequence[Neuron]] = ()
) -> Search[NeuronSet, Harm, Smallest]:
    """Looks for the smallest set that collapses the model.

    Args:
        shortlist: The neurons that sets are made of, the likeliest first.
        groups: Neurons that write one channel, the strongest first; those of the shortlist count.
        budget: So many sets are measured at most.
        chains: Orders whose beginnings may collapse the model; what is not on the shortlist is not tried alone.

    Yields:
        Batches of sets, each set once; it is sent the harm of each.

    Raises:
        ValueError: The shortlist is empty.
    """
    if not shortlist:
        raise ValueError("the shortlist is empty; expected at least one neuron")
    known = _Known(budget)
    listed = set(shortlist)
    channels = [kept for group in groups if len(kept := [n for n in group if n in listed]) > 1]
    ended = False
    try:
        yield from known.ask([NeuronSet([n]) for n in shortlist])
        if known.size != 1:
            work = _Work(known, list(shortlist), channels, chains)
            yield from work.leaps()
            yield from work.probe(int(SHARE * budget))
            yield from work.eliminate(int(SHARE * budget))
            yield from work.grow()
            yield from work.shrink()
        ended = True
    except _Spent:
        pass
    return known.found(shortlist, ended)


class _Known:
    """What was measured, and the best of it."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.harms: dict[NeuronSet, Harm] = {}
        self._steps: list[Step] = []

    def ask(self, sets: Iterable[NeuronSet], until: Callable[[], bool] | None = None) -> Ask:
        """Has sets measured that are not known.

        Args:
            sets: In the order in which they are asked about.
            until: Says behind each chunk whether that was enough.
        """
        waiting, seen = (s for s in sets if s not in self.harms), set[NeuronSet]()
        waiting = (s for s in waiting if s not in seen and not seen.add(s))
        while chunk := list(islice(waiting, CHUNK)):
            part = chunk[: self.left]
            if part:
                for neurons, harm in zip(part, (yield part), strict=True):
                    self._learn(neurons, harm)
            if len(part) < len(chunk):
                raise _Spent
            if until is not None and until():
                return

    def _learn(self, neurons: NeuronSet, harm: Harm) -> None:
        self.harms[neurons] = harm
        if not self._steps or _better(neurons, harm) > _better(self._steps[-1].neurons, self._steps[-1].harm):
            self._steps.append(Step(len(self.harms), neurons, harm))

    @property
    def left(self) -> int:
        """Of the budget, in sets."""
        return self._budget - len(self.harms)

    @property
    def best(self) -> NeuronSet | None:
        """The smallest set that collapses the model, and of equals the most harmful; None where there is none."""
        last = self._steps[-1] if self._steps else None
        return last.neurons if last is not None and last.harm.collapsed else None

    @property
    def size(self) -> int | None:
        """Of the best set."""
        best = self.best
        return None if best is None else len(best)

    def rise(self, neurons: NeuronSet) -> float:
        """Of a set that is known."""
        return self.harms[neurons].rise

    def of_size(self, size: int) -> list[NeuronSet]:
        """The known sets of a size, the most harmful first; of equals, that which was measured first."""
        return sorted((s for s in self.harms if len(s) == size), key=self.rise, reverse=True)

    def found(self, shortlist: Sequence[Neuron], ended: bool) -> Smallest:
        """What the search returns."""
        sizes = sorted({len(s) for s, harm in self.harms.items() if harm.collapsed})
        sets = (next(s for s in self.of_size(size) if self.harms[s].collapsed) for size in sizes)
        alone = [(n, self.harms[s]) for n in shortlist if (s := NeuronSet([n])) in self.harms]
        alone.sort(key=lambda pair: pair[1].rise, reverse=True)
        return Smallest(tuple(sets), len(self.harms), tuple(self._steps), ended, tuple(alone))


def _better(neurons: NeuronSet, harm: Harm) -> tuple[bool, int, float]:
    """Sorts sets: those that collapse the model after the others, the smallest last, the most harmful last."""
    return harm.collapsed, -len(neurons) if harm.collapsed else 0, harm.rise


class _Work:
    """The steps of the search."""

    def __init__(
        self,
        known: _Known,
        shortlist: Sequence[Neuron],
        channels: Sequence[Sequence[Neuron]],
        chains: Sequence[Sequence[Neuron]],
    ) -> None:
        self._known, self._channels, self._chains = known, channels, chains
        self._place = {n: place for chain in reversed(chains) for place, n in enumerate(chain)}
        self._gain = {n: known.rise(NeuronSet([n])) for n in shortlist}
        partners: dict[Neuron, dict[Neuron, None]] = {}
        for group in channels:
            for n in group:
                partners.setdefault(n, {}).update(dict.fromkeys(m for m in group if m != n))
        self._partners: Mapping[Neuron, Mapping[Neuron, None]] = partners

    # -- probes --------------------------------------------------------------------------------------------------------
    def probe(self, most: int) -> Ask:
        """Pairs and triples of neurons that write one channel: the two strongest writers of every channel first."""
        known = self._known
        probes = islice(dict.fromkeys(NeuronSet(neurons) for neurons in self._same_channel()), most)
        yield from known.ask(probe for probe in probes if known.size is None or len(probe) < known.size)

    def _same_channel(self) -> Iterator[tuple[Neuron, ...]]:
        """One probe of each channel, then the next of each."""
        waiting = [chain(combinations(group, 2), combinations(group, 3)) for group in self._channels]
        for turn in zip_longest(*waiting):
            yield from (probe for probe in turn if probe is not None)

    # -- growing -------------------------------------------------------------------------------------------------------
    def grow(self) -> Ask:
        """The beam and its leaps, up to sets one smaller than the best."""
        known, size = self._known, 1
        while size < len(self._gain) and (known.size is None or size + 1 < known.size):
            beam = known.of_size(size)[:BEAM]
            sets = [grown for neurons in beam for grown in self._grown(neurons, WIDTH)]
            yield from known.ask(sets)
            self._learn(beam)
            size += 1
            largest = known.of_size(size)
            if not largest:
                return
            if known.size is None or known.size > size + 1:
                yield from self._leap(largest[0], self._by_gain())

    def _grown(self, neurons: NeuronSet, width: int) -> list[NeuronSet]:
        """A set with one more: half of them partners of a member, as far as there are any."""
        members = list(neurons)
        near = dict.fromkeys(p for n in members for p in self._partners.get(n, ()) if p not in members)
        near = sorted(near, key=lambda n: self._gain[n], reverse=True)[: width // 2]
        far = (n for n in self._by_gain() if n not in members and n not in near)
        return [neurons | NeuronSet([n]) for n in (*near, *islice(far, width - len(near)))]

    def _by_gain(self) -> list[Neuron]:
        """By the harm that a neuron added when it was added last."""
        return sorted(self._gain, key=lambda n: self._gain[n], reverse=True)

    def _learn(self, beam: Sequence[NeuronSet]) -> None:
        """What a neuron adds to the best set of the beam to which it was added."""
        for neurons in reversed(beam):
            for n in self._gain:
                grown = self._known.harms.get(neurons | NeuronSet([n])) if n not in neurons else None
                if grown is not None:
                    self._gain[n] = _difference(grown.rise, self._known.rise(neurons))

    def leaps(self) -> Ask:
        """From nothing along the most harmful neurons of the shortlist, and along each chain."""
        for order in (self._by_gain(), *self._chains):
            yield from self._leap(NeuronSet(), order)

    def _leap(self, neurons: NeuronSet, order: Sequence[Neuron]) -> Ask:
        """A set with 2, 4, 8, ... more, and where that collapses the model, the least number of them that does."""
        known, order = self._known, [n for n in order if n not in neurons]

        def leap(count: int) -> NeuronSet:
            return neurons | NeuronSet(order[:count])

        low, high = 1, 2
        while True:
            # A set that is not smaller than the best is of no use.
            high = min(high, len(order), len(order) if known.size is None else known.size - 1 - len(neurons))
            if high <= low:
                return
            yield from known.ask([leap(high)])
            if known.harms[leap(high)].collapsed:
                break
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            yield from known.ask([leap(middle)])
            low, high = (low, middle) if known.harms[leap(middle)].collapsed else (middle, high)
        yield from known.ask([leap(int(times * high)) for times in SPARE if times * high <= len(order)])

    # -- shrinking -----------------------------------------------------------------------------------------------------
    def shrink(self) -> Ask:
        """Takes away what is not needed, looks for more harm at that size, and then for a set of one fewer, until in vain."""
        known = self._known
        while (best := known.best) is not None and len(best) > 1:
            yield from self.eliminate()
            size = len(known.best or ())
            yield from self._climb(size, known.left // 2, swaps=1)
            yield from self._climb(size - 1, known.left)
            if known.size == size:
                return

    def eliminate(self, most: int | None = None) -> Ask:
        """The best set without each part of it, from halves down to single neurons, as long as one collapses the model.

        Args:
            most: Stops when so many sets more are known.
        """
        known, parts = self._known, 2
        end = math.inf if most is None else len(known.harms) + most
        while (best := known.best) is not None and len(best) > 1 and len(known.harms) < end:
            members = self._least_first(best)
            parts = min(parts, len(members))
            cuts = [round(len(members) * i / parts) for i in range(parts + 1)]
            rests = [NeuronSet(members[:a] + members[b:]) for a, b in pairwise(cuts)]
            yield from known.ask(rests, until=lambda: known.best != best)
            if known.best != best:
                parts = max(parts - 1, 2)
            elif parts == len(members):
                return
            else:
                parts = 2 * parts

    def _climb(self, size: int, most: int, swaps: int = 2) -> Ask:
        """Swaps members of the most harmful set of a size, as long as that does more harm.

        Args:
            size: That of the best set, or one less; then it stops where the model collapses.
            most: Stops when so many sets more are known.
            swaps: One member at a time, or where that does not help two.
        """
        known, tried = self._known, set[NeuronSet]()
        least, end = known.size, len(known.harms) + most
        while (top := next(iter(known.of_size(size)), None)) is not None and top not in tried:
            tried.add(top)
            for count in range(1, swaps + 1):
                yield from known.ask(
                    self._swapped(top, count), until=lambda: known.of_size(size)[0] != top or len(known.harms) >= end
                )
                if known.size != least or len(known.harms) >= end:
                    return
                if known.of_size(size)[0] != top:
                    break

    def _least_first(self, neurons: NeuronSet) -> list[Neuron]:
        """The members, those first that added least, and of those that were not tried alone the last of their chain."""
        return sorted(neurons, key=lambda n: (self._gain.get(n, 0.0), -self._place.get(n, 0)))

    def _swapped(self, neurons: NeuronSet, count: int) -> Iterator[NeuronSet]:
        """The set with so many members replaced, the least useful members by the most useful others first."""
        members = self._least_first(neurons)
        others = [n for n in self._by_gain() if n not in neurons]
        for new in combinations(others, count):
            for old in combinations(members, count):
                yield NeuronSet([*(n for n in members if n not in old), *new])


def _difference(after: float, before: float) -> float:
    """What was added; to what is infinite already nothing can be."""
    return 0.0 if math.isinf(before) else after - before
