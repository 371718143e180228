"""Which values neurons take on clean data: the range at the first token, and the range at all others.

The two are learnt apart. A critical channel carries its massive value at the first token alone (arXiv 2402.17762); one range
for all tokens would have to include it, and would let a value as large pass everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site, Sites
from lesion.data.samples import Sample
from lesion.hooks.attach import SiteHook, attached
from lesion.hooks.intervention import Statistics
from lesion.models.batch import Batch
from lesion.models.tokens import CLASSES, FIRST
from lesion.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    import torch

MARGIN, LEAST = 0.25, 0.05
"""A range is wider than what was seen, on either side: by so much of its width, as other clean data takes other values, and by
so much of its largest magnitude, as what is constant is so but for rounding."""
FIRST_ROW, OTHERS_ROW = 0, 1
"""Of a range's bounds."""


@dataclass(frozen=True)
class SiteRange:
    """What some neurons of a site do on clean data.

    Attributes:
        channels: Of the site, int64 ``[members]``; a head is several.
        low: Smallest values, with the margin, ``[2, members]``: at the first token, and at all others.
        high: Largest ones.
        first: Mean at the first token, ``[members]``; 0 where there is none.
    """

    channels: np.ndarray
    low: np.ndarray
    high: np.ndarray
    first: np.ndarray


Ranges = Mapping[str, SiteRange]
"""By the site's key."""


def learn(
    vlm: VisionLanguageModel,
    neurons: NeuronSet,
    samples: Sequence[Sample],
    prompt: str,
    max_new_tokens: int = 32,
    batch_size: int = 8,
) -> Ranges:
    """Runs a model on its own answers to some samples, and notes what neurons do.

    Args:
        vlm: The model, undamaged.
        neurons: Of its sites.
        samples: Clean data.
        prompt: Where a sample has no question of its own.
        max_new_tokens: Longest answer.
        batch_size: Samples at a time.
    """
    import torch

    prompts = [vlm.prompt(sample, prompt) for sample in samples]
    seen = {site.key: _Seen(site, neurons.indices(site)) for site in neurons.sites}
    with vlm.prepared(), torch.inference_mode():
        answers = vlm.generate(vlm.embed(prompts), max_new_tokens)
        for batch in vlm.batches(prompts, answers, batch_size):
            hooks = [(site, seen[site.key].of(batch)) for site in neurons.sites]
            with attached(vlm.model, hooks):
                vlm.model(**batch.inputs, use_cache=False)
    return {key: one.range() for key, one in seen.items()}


def statistics(ranges: Ranges, sites: Sites) -> Statistics:
    """Ranges and constants as interventions read them (``low``, ``high``, ``class-mean``); others have no bounds."""
    found: dict[str, dict[str, np.ndarray]] = {"low": {}, "high": {}, "class-mean": {}}
    for key, own in ranges.items():
        site = sites.get(key)
        if site is None:
            continue
        width = site.width * site.group
        shapes = {"low": (2, -np.inf), "high": (2, np.inf), "class-mean": (len(CLASSES), 0.0)}
        for name, (rows, filler) in shapes.items():
            found[name][key] = np.full((rows, width), filler, dtype=np.float32)
        found["low"][key][:, own.channels] = own.low
        found["high"][key][:, own.channels] = own.high
        found["class-mean"][key][FIRST, own.channels] = own.first
    return found


class _Seen:
    """What was seen of some neurons of a site so far."""

    def __init__(self, site: Site, indices: np.ndarray) -> None:
        self._site, self._module_channels = site, site.channels(indices)
        members = len(self._module_channels)
        self._low, self._high = np.full((2, members), np.inf), np.full((2, members), -np.inf)
        self._sum, self._count = np.zeros(members), 0

    def of(self, batch: Batch) -> SiteHook:
        """Looks at one batch."""

        def look(x: torch.Tensor, _: object) -> None:
            rows = x.detach()[..., self._module_channels].float()
            rows = rows.reshape(len(batch), -1, rows.shape[-1])
            every = batch.tokens(self._site, rows.shape[1], "all")
            language = self._site.component == "language"
            first = batch.tokens(self._site, rows.shape[1], "first") if language else every & False
            for row, which in ((FIRST_ROW, first), (OTHERS_ROW, every & ~first)):
                values = rows[which.to(rows.device)].cpu().numpy().astype(np.float64)
                if len(values):
                    self._low[row] = np.minimum(self._low[row], values.min(0))
                    self._high[row] = np.maximum(self._high[row], values.max(0))
                if row == FIRST_ROW:
                    self._sum += values.sum(0)
                    self._count += len(values)

        return look

    def range(self) -> SiteRange:
        """With the margin; where a kind of token was not seen, the range of the other."""
        low, high = (np.where(np.isfinite(a), a, a[::-1]) for a in (self._low, self._high))
        wider = MARGIN * (high - low) + LEAST * np.maximum(np.abs(low), np.abs(high))
        mean = self._sum / max(self._count, 1)
        channels = self._module_channels - self._site.start
        return SiteRange(channels, *(a.astype(np.float32) for a in (low - wider, high + wider, mean)))
