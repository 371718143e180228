"""Scoring by replicas in other processes (:mod:`lesion.core.executor`): each a batch, summed in the order of the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.executor import Executor
from lesion.core.importance import Importance, decode, encode
from lesion.core.packet import pack, unpack
from lesion.core.sites import Site, Sites
from lesion.scoring.options import ScoreOptions
from lesion.scoring.score import check_any, score
from lesion.scoring.scorers import get_scorer
from lesion.scoring.steepest import summed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from lesion.scoring.registry import ScoringBatch


def pooled_score(
    executor: Executor,
    ground: str,
    batches: Sequence[range],
    sites: Sites,
    scorers: Sequence[str],
    options: ScoreOptions,
    progress: Callable[[int], None],
) -> dict[str, Importance]:
    """As :func:`lesion.scoring.score.score`, with the same sums to the last bit.

    Args:
        executor: Open.
        ground: Name of what the replicas know of the samples.
        batches: The numbers of each batch's samples.
        sites: Where to score.
        scorers: Names; those that read nothing of the model, such as ``random``, are not for here.
        options: Of the scorers.
        progress: Called with the number of samples after each batch.
    """
    about = {"kind": "score", "ground": ground, "sites": [s.key for s in sites], "scorers": list(scorers)}
    tasks = [pack({**about, "options": asdict(options), "samples": [b.start, b.stop]}) for b in batches]
    merged: dict[str, Importance] = {}
    for number, data in _in_order(executor.run(tasks)):
        found = decode(data, sites) or {}
        # A batch whose samples were all left out gives nothing but the names.
        merged = {name: merged[name].merge(part) for name, part in found.items()} if merged else found
        progress(len(batches[number]))
    check_any(max((i.samples for i in merged.values()), default=0), sum(map(len, batches)))
    return merged


def pooled_rise(
    executor: Executor, ground: str, batches: Sequence[range], sites: Sites, masked: Mapping[str, Any]
) -> Mapping[Site, np.ndarray]:
    """As :func:`lesion.scoring.steepest.promised_rise`, with the same sums to the last bit.

    Args:
        executor: Open.
        ground: Name of what the replicas know of the samples.
        batches: The numbers of each batch's samples.
        sites: Where to look.
        masked: What is masked, as JSON.
    """
    about = {"kind": "rise", "ground": ground, "sites": [s.key for s in sites], "masked": masked}
    tasks = [pack({**about, "samples": [b.start, b.stop]}) for b in batches]
    by_key = {site.key: site for site in sites}
    found = (unpack(data)[1] for _, data in _in_order(executor.run(tasks)))
    return summed({by_key[key]: values for key, values in part.items()} for part in found)


def scored(
    model: nn.Module, sites: Sites, batches: Iterable[ScoringBatch], scorers: Sequence[str], options: ScoreOptions
) -> bytes:
    """What a replica gives back for a batch."""
    return encode(score(model, sites, batches, scorers, options, part=True))


def risen(rises: Mapping[Site, np.ndarray]) -> bytes:
    """What a replica gives back where the rise was asked for."""
    return pack({}, {site.key: values for site, values in rises.items()})


def reads(scorer: str) -> bool:
    """Whether a scorer reads anything of the model."""
    return get_scorer(scorer).reduce is not None


def _in_order(found: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Results in the order of their tasks: sums of floats depend on it."""
    waiting: dict[int, bytes] = {}
    following = 0
    for number, data in found:
        waiting[number] = data
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1
