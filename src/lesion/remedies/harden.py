"""A model that does the same and depends less on single units, as an ordinary checkpoint (:mod:`lesion.remedies.split`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample
from lesion.models.memory import weights
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.card import CARD, NEURONS, hardened_card
from lesion.remedies.checkpoint import Asked, check_free, write
from lesion.remedies.split import split


@dataclass(frozen=True)
class Hardened:
    """A checkpoint that was written, and how it was verified.

    Attributes:
        path: The folder.
        neurons: How many units were split.
        times: Into how many each.
        units: How many units each layer has more.
        size: Bytes of its weights, as a multiple of the original's.
        samples: On how many it answers as the original does.
        difference: Largest difference of log-probabilities, as a share of the largest.
    """

    path: str
    neurons: int
    times: int
    units: int
    size: float
    samples: int
    difference: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.neurons:,} units split into {self.times} each, {self.units:,} more units a layer "
            f"({self.size:.4f} times the weights); loaded again, it answers {self.samples} samples as the original does "
            f"(log-probabilities within {self.difference:.1g})"
        )


def harden(
    vlm: VisionLanguageModel,
    neurons: NeuronSet,
    out: str | Path,
    times: int,
    samples: Sequence[Sample],
    prompt: str,
    max_new_tokens: int = 32,
) -> Hardened:
    """Writes the model with some units split.

    Args:
        vlm: The model, which is changed: it is not to be used any more.
        neurons: Intermediate units of its language model.
        out: A folder that is not there yet.
        times: How many a unit becomes.
        samples: On which what was written is compared with the original.
        prompt: What it is asked, where a sample has no question of its own.
        max_new_tokens: Longest answer that is compared.

    Raises:
        OptionError: The neurons are no such units, ``times`` is below 2, or ``out`` is there.
        ModelError: The model is built otherwise, or what was written answers otherwise; nothing is left behind.
    """
    check_free(out)
    asked = Asked(samples, prompt, max_new_tokens)
    wanted, about, before = asked.of(vlm), hardened_card(vlm, neurons, times, len(samples)), weights(vlm.model)
    units = split(vlm.model, neurons, times)

    def finish(folder: Path, difference: float) -> None:
        (folder / NEURONS).write_text(neurons.to_json())
        (folder / CARD).write_text(about(difference))

    difference = write(vlm, out, wanted, asked, finish)
    return Hardened(
        str(out), len(neurons), times, units, weights(vlm.model) / before, len(samples), difference
    )
