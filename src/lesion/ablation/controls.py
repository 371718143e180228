"""Controls: sets of the same size as the critical one, drawn by chance; if they collapse the model too, size was all."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lesion.core.importance import Importance
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Site
from lesion.scoring.writers import Writers as Writers

Draw = Callable[[NeuronSet, Ranking, Importance, np.random.Generator], dict[Site, np.ndarray]]
NEAREST = 20
"""A matched control takes, for each critical neuron, one of the so many nearest in mean activation magnitude."""


class NotEnoughNeurons(Exception):  # noqa: N818 (a finding about the model, which the caller records)
    """There are fewer other neurons than the control needs."""


def _random(critical: NeuronSet, ranking: Ranking, activation: Importance, rng: np.random.Generator) -> dict[Site, np.ndarray]:
    """Anywhere among the ranked sites."""
    free = {site: _others(site, critical) for site in ranking.sites}
    owner = np.repeat(np.arange(len(free)), [len(v) for v in free.values()])
    index = np.concatenate(list(free.values()))
    if len(index) < len(critical):
        raise NotEnoughNeurons
    chosen = rng.choice(len(index), len(critical), replace=False)
    return {site: index[chosen[owner[chosen] == i]] for i, site in enumerate(free)}


def _layers(critical: NeuronSet, ranking: Ranking, activation: Importance, rng: np.random.Generator) -> dict[Site, np.ndarray]:
    """As many in each site as the critical set has there."""
    drawn = {}
    for site in critical.sites:
        others, wanted = _others(site, critical), len(critical.indices(site))
        if len(others) < wanted:
            raise NotEnoughNeurons
        drawn[site] = rng.choice(others, wanted, replace=False)
    return drawn


def _magnitude(
    critical: NeuronSet, ranking: Ranking, activation: Importance, rng: np.random.Generator
) -> dict[Site, np.ndarray]:
    """For each critical neuron, one that is about as active."""
    sites = list(ranking.sites)
    values = np.concatenate([activation.values(s) for s in sites])
    owner = np.repeat(np.arange(len(sites)), [s.width for s in sites])
    index = np.concatenate([np.arange(s.width) for s in sites])
    free = np.concatenate([~np.isin(np.arange(s.width), critical.indices(s)) for s in sites])
    chosen = []
    for neuron in critical:
        if not free.any():
            raise NotEnoughNeurons
        candidates = np.flatnonzero(free)
        distance = np.abs(values[candidates] - activation.values(neuron.site)[neuron.index])
        # argpartition finds the nearest without sorting everything; the sort makes the draw the same everywhere.
        near = np.argpartition(distance, min(NEAREST, len(distance)) - 1)[:NEAREST]
        pick = rng.choice(np.sort(candidates[near]))
        free[pick] = False
        chosen.append(pick)
    picked = np.array(chosen)
    return {site: index[picked[owner[picked] == i]] for i, site in enumerate(sites)}


def _others(site: Site, critical: NeuronSet) -> np.ndarray:
    return np.setdiff1d(np.arange(site.width), critical.indices(site))


@dataclass(frozen=True)
class ControlKind:
    """A way to draw control sets.

    Attributes:
        name: For options and files.
        label: For people, of several sets.
        draw: Draws one.
    """

    name: str
    label: str
    draw: Draw


KINDS: dict[str, ControlKind] = {
    kind.name: kind
    for kind in (
        ControlKind("random", "Random sets of the same size", _random),
        ControlKind("layers", "Random sets in the same layers", _layers),
        ControlKind("magnitude", "Sets of matched activation", _magnitude),
    )
}
"""By name, in the order in which they are drawn."""


def register_control(name: str, label: str) -> Callable[[Draw], Draw]:
    """Adds a way to draw control sets; every study then draws some.

    Raises:
        ValueError: The name is taken.
    """

    def add(draw: Draw) -> Draw:
        if name in KINDS:
            raise ValueError(f"a kind of control named {name!r} is registered already")
        KINDS[name] = ControlKind(name, label, draw)
        return draw

    return add


CHANNEL = "channel"
"""The kind that :func:`draw_writers` draws, where it is known who writes what."""


def label_of(kind: str) -> str:
    """What a kind of control sets is called."""
    if kind == CHANNEL:
        return "Sets that write the same channels"
    return KINDS[kind].label if kind in KINDS else kind


def draw(kind: str, seed: int, critical: NeuronSet, ranking: Ranking, activation: Importance) -> NeuronSet | None:
    """A control set of the critical set's size, without any of its members.

    Args:
        kind: A name in :data:`KINDS`: ``random`` (anywhere), ``layers`` (the same sites), ``magnitude`` (about as active), or
            one that was registered.
        seed: The same seed draws the same set.
        critical: What it is a control for.
        ranking: Says which sites take part.
        activation: Mean activation magnitudes.

    Returns:
        The set; None where there are not enough other neurons.
    """
    try:
        return NeuronSet.from_arrays(KINDS[kind].draw(critical, ranking, activation, _generator(seed, kind)))
    except NotEnoughNeurons:
        return None


def draw_writers(seed: int, critical: NeuronSet, writers: Writers) -> NeuronSet | None:
    """A control set that writes the same channels: for each critical neuron, one of the others that write most of its channel.

    Args:
        seed: The same seed draws the same set.
        critical: What it is a control for.
        writers: Of each channel.

    Returns:
        The set; None where a channel has not enough other writers.
    """
    rng, chosen = _generator(seed, CHANNEL), list[Neuron]()
    for neuron in critical:
        channel = writers.channel_of(neuron)
        found = [] if channel is None else [w.neuron for w in writers.of(channel)]
        others = [n for n in found if n not in critical and n not in chosen]
        if not others:
            return None
        chosen.append(others[int(rng.integers(len(others)))])
    return NeuronSet(chosen)


def draw_each(
    critical: NeuronSet, ranking: Ranking, activation: Importance, seeds: int, first_seed: int = 0,
    writers: Writers | None = None,
) -> dict[tuple[str, int], NeuronSet | None]:
    """Sets of the same size, drawn by chance.

    Args:
        critical: What they are controls for; none are drawn for the empty set.
        ranking: Says which sites take part.
        activation: Mean activation magnitudes.
        seeds: How many of each kind of :data:`KINDS`.
        first_seed: Of each kind's first.
        writers: Of each channel; given, sets that write the same channels are drawn too.

    Returns:
        Kind and number -> set; None where there are not enough other neurons.
    """
    if not len(critical):
        return {}
    wanted = [(kind, seed) for kind in KINDS for seed in range(seeds)]
    drawn = {(kind, seed): draw(kind, first_seed + seed, critical, ranking, activation) for kind, seed in wanted}
    if writers is not None:
        drawn |= {(CHANNEL, seed): draw_writers(first_seed + seed, critical, writers) for seed in range(seeds)}
    return drawn


def _generator(seed: int, kind: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(kind.encode())])
