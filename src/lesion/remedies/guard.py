"""A :class:`Guard`: what it takes to find and undo damage to critical neurons, in a loaded model or in a checkpoint.

It holds copies of their rows and columns with checksums (:mod:`lesion.hooks.clean`), the ranges of what passes through them on
clean data, and one constant a neuron: its mean at the first token (:mod:`lesion.remedies.ranges`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.errors import ModelError, NeuronSetError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample
from lesion.hooks.clean import CleanWeights, Damage
from lesion.hooks.fault import RangeCheck
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import FirstMean, Intervention
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.followed import followed
from lesion.remedies.ranges import Ranges, SiteRange, learn, statistics

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Watch:
    """What was found while a model was watched.

    Attributes:
        passes: How many passes there were.
        checks: How many checks.
        found: What was damaged, and was repaired.
    """

    passes: int = 0
    checks: int = 0
    found: list[Damage] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Guard:
    """Of some neurons of a model.

    Attributes:
        neurons: Which.
        weights: Copies of what they are made of.
        ranges: What passes through them on clean data.
    """

    neurons: NeuronSet
    weights: CleanWeights
    ranges: Ranges

    @classmethod
    def make(
        cls, vlm: VisionLanguageModel, neurons: NeuronSet, samples: Sequence[Sample], prompt: str, max_new_tokens: int = 32
    ) -> Guard:
        """Of a model that is not damaged.

        Args:
            vlm: The model.
            neurons: Of its sites.
            samples: Clean data, on which ranges are learnt.
            prompt: Where a sample has no question of its own.
            max_new_tokens: Longest answer.

        Raises:
            ModelError: The neurons' weights are an expert's, offloaded or quantised.
        """
        copies = CleanWeights.of(vlm.model, neurons)
        return cls(neurons, copies, learn(vlm, neurons, samples, prompt, max_new_tokens))

    # -- weights -------------------------------------------------------------------------------------------------------
    def check(self, model: nn.Module) -> list[Damage]:
        """The guarded rows and columns that are not as they were, bit by bit.

        Raises:
            ModelError: The model has not these weights, or in another dtype.
        """
        return self.weights.bound(model).check()

    def repair(self, model: nn.Module) -> list[Damage]:
        """Undoes all damage to guarded weights.

        Returns:
            What was damaged.

        Raises:
            ModelError: As :meth:`check`; or a copy is damaged itself, and nothing was repaired.
        """
        return self.weights.bound(model).repair()

    @contextmanager
    def watching(
        self, model: nn.Module, every: int = 1, tell: Callable[[list[Damage]], None] = lambda _: None
    ) -> Iterator[Watch]:
        """Checks and repairs a model before its first pass and then before every so many passes, while the context lasts.

        Args:
            model: Whatever is called: a decoding step is a pass. One that is moved to another device or dtype inside has other
                weights than those that are checked.
            every: So many passes from one check to the next.
            tell: Called with what was damaged.

        Raises:
            OptionError: ``every`` is below 1.
            ModelError: As :meth:`repair`; raised by the pass that finds it.
        """
        if every < 1:
            raise OptionError(f"every is {every}; expected a check at least every 1 passes")
        bound, watch = self.weights.bound(model), Watch()

        def before(*_: Any) -> None:
            if watch.passes % every == 0:
                watch.checks += 1
                if damages := bound.repair():
                    watch.found += damages
                    tell(damages)
            watch.passes += 1

        handle = model.register_forward_pre_hook(before)
        try:
            yield watch
        finally:
            handle.remove()

    # -- activations ---------------------------------------------------------------------------------------------------
    def ranged(self, vlm: VisionLanguageModel) -> AbstractContextManager[None]:
        """Puts what leaves the range of clean data back to its end, while the context lasts.

        Raises:
            OptionError: The neurons are not in the language model, or it is an encoder-decoder.
        """
        return self._applied(vlm, RangeCheck())

    def reinserted(self, vlm: VisionLanguageModel) -> AbstractContextManager[None]:
        """Sets the neurons to zero but for their constants at the first token, while the context lasts; raises likewise."""
        return self._applied(vlm, FirstMean())

    @contextmanager
    def _applied(self, vlm: VisionLanguageModel, act: Intervention) -> Iterator[None]:
        """An intervention that needs what was learnt, in passes that anybody runs."""
        act.check(self.neurons.sites, vlm.is_encoder_decoder)
        found = statistics(self.ranges, vlm.sites)
        with followed(vlm) as layout, mask(vlm.model, self.neurons.fit(vlm.sites), act, found, layout):
            yield

    # -- as a file -----------------------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> None:
        """Writes a safetensors file."""
        import torch

        more: dict[str, torch.Tensor] = {}
        for number, own in enumerate(self.ranges.values()):
            for name in _ARRAYS:
                more[f"range/{number}/{name}"] = torch.from_numpy(np.ascontiguousarray(getattr(own, name)))
        self.weights.save(path, {"neurons": self.neurons.to_json(), "ranges": list(self.ranges)}, more)

    @classmethod
    def load(cls, path: str | Path) -> Guard:
        """From :meth:`save`.

        Raises:
            ModelError: No such file, or no guard.
        """
        weights, head, more = CleanWeights.load(path)
        try:
            neurons = NeuronSet.from_json(head["neurons"], path)
            ranges = {
                str(key): SiteRange(**{name: more[f"range/{i}/{name}"].numpy() for name in _ARRAYS})
                for i, key in enumerate(head["ranges"])
            }
        except (KeyError, TypeError, NeuronSetError):
            raise ModelError(f"{path} is no guard, or damaged; expected a file that `lesion guard make` wrote") from None
        return cls(neurons, weights, ranges)

    @property
    def dtype(self) -> str:
        """Of the copies, as ``--dtype`` takes it."""
        return next(str(rows.dtype).removeprefix("torch.") for _, rows in self.weights.copies.values())


_ARRAYS = ("channels", "low", "high", "first")
"""Of a :class:`SiteRange`."""
