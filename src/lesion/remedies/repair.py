"""Repair by one constant: a neuron that is lost is set to zero, but for its mean at the first token.

What a massive channel does, it does with a value that is nearly the same for every text (arXiv 2402.17762), so that a number
stands in for it: a guard of one number a neuron, where copies of its weights are thousands. The checkpoint that is written has
the neurons masked for good; the constants are in the guard beside it, since weights are the same for all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesion.core.errors import DataError
from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample
from lesion.hooks.edit import MergedMask, edited
from lesion.hooks.intervention import FirstMean
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.card import CARD, NEURONS
from lesion.remedies.checkpoint import Asked, check_free, write
from lesion.remedies.guard import Guard
from lesion.remedies.repaired_card import repaired_card
from lesion.remedies.worth import perplexities
from lesion.study.origin import Before, Origin

GUARD = "guard.safetensors"
"""In the folder."""


@dataclass(frozen=True)
class Repaired:
    """A checkpoint with neurons masked and a guard beside it, and what the constants are worth.

    Attributes:
        path: The folder.
        neurons: How many are masked.
        learnt: On how many samples the constants were learnt.
        samples: On how many others the perplexities were measured.
        intact: Perplexity of the intact model's answers; None where it is not finite.
        masked: With the neurons set to zero.
        repaired: With their constants at the first token.
        difference: Largest difference of log-probabilities between the folder's model and the masked one, as a share of the
            largest.
    """

    path: str
    neurons: int
    learnt: int
    samples: int
    intact: float | None
    masked: float | None
    repaired: float | None
    difference: float

    @property
    def kept(self) -> float | None:
        """The repaired perplexity as a multiple of the intact one."""
        return None if self.intact is None or self.repaired is None else self.repaired / self.intact

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "kept": self.kept}

    def __str__(self) -> str:
        found = (self.intact, self.masked, self.repaired)
        intact, masked, repaired = ("not finite" if x is None else f"{x:,.4g}" for x in found)
        times = "" if self.kept is None else f" ({self.kept:.4f} times the intact one)"
        return (
            f"{self.path}: {self.neurons:,} neurons masked for good, their constants in {GUARD}, from {self.learnt} samples; "
            f"on {self.samples} others the perplexity is {intact} intact, {masked} masked, {repaired} with the constants{times}"
        )


def repair(
    vlm: VisionLanguageModel, neurons: NeuronSet, out: str | Path, samples: Sequence[Sample], prompt: str,
    max_new_tokens: int = 32, found: Before | None = None,
) -> Repaired:
    """Writes the model with neurons masked, and a guard that holds what stands in for them.

    Args:
        vlm: The model; it is left as it was.
        neurons: Of its language model.
        out: A folder that is not there yet.
        samples: Constants are learnt on the first half, and measured on the other.
        prompt: What it is asked, where a sample has no question of its own.
        max_new_tokens: Longest answer.
        found: What a study found in the model.

    Raises:
        OptionError: A neuron is not in the language model, it is an encoder-decoder, or ``out`` is there.
        DataError: Fewer than 2 samples.
        ModelError: The weights cannot be edited, or what was written answers otherwise; nothing is left behind.
    """
    act = FirstMean()
    act.check(neurons.sites, vlm.is_encoder_decoder)
    check_free(out)
    if len(samples) < 2:
        raise DataError(f"{len(samples)} samples; expected at least 2, one to learn constants on and one to measure")
    learnt, others = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    guard = Guard.make(vlm, neurons, learnt, prompt, max_new_tokens)
    intact, masked, repaired = perplexities(vlm, guard, act, others, prompt, max_new_tokens)
    asked = Asked(others, prompt, max_new_tokens)
    did = f"{len(neurons):,} neurons masked for good, with a constant each beside it"
    origin = Origin(did=did, model=str(vlm.identity()), neurons=len(neurons), before=found)
    wanted, about = asked.of(vlm, neurons), repaired_card(vlm, guard, intact, masked, repaired, len(others))

    def finish(folder: Path, difference: float) -> None:
        (folder / NEURONS).write_text(neurons.to_json())
        guard.save(folder / GUARD)
        origin.write(folder)
        (folder / CARD).write_text(about(difference))

    with edited(vlm.model, [MergedMask(neurons)]):
        difference = write(vlm, out, wanted, asked, finish)
    return Repaired(str(out), len(neurons), len(learnt), len(others), intact, masked, repaired, difference)
