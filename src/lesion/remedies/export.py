"""A masked model as an ordinary checkpoint, which any tool loads without lesion.

The mask is merged into the weights (:class:`lesion.hooks.edit.MergedMask`): the columns of the out-projection that a masked
unit writes through, or the row that a masked output channel is, become zero. What was written is loaded again and asked about
some samples, as the model under hooks is; where an answer differs, nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesion.core.errors import OptionError
from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample
from lesion.hooks.edit import MergedMask, edited
from lesion.hooks.intervention import Intervention, Zero
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.card import CARD, NEURONS, masked_card
from lesion.remedies.checkpoint import Asked, check_free, write
from lesion.study.origin import Before, Origin


@dataclass(frozen=True)
class Exported:
    """A checkpoint that was written, and how it was verified.

    Attributes:
        path: The folder.
        neurons: How many are masked.
        samples: On how many it answers as the model under hooks does.
        difference: Largest difference of log-probabilities to those under hooks, as a share of the largest.
    """

    path: Path
    neurons: int
    samples: int
    difference: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "path": str(self.path), "neurons": self.neurons, "samples": self.samples, "difference": self.difference
        }

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.neurons:,} neurons masked for good; loaded again, it answers {self.samples} samples as the "
            f"model under hooks does (log-probabilities within {self.difference:.1g})"
        )


def export(
    vlm: VisionLanguageModel,
    neurons: NeuronSet,
    out: str | Path,
    samples: Sequence[Sample],
    prompt: str,
    intervention: Intervention | None = None,
    max_new_tokens: int = 32,
    found: Before | None = None,
) -> Exported:
    """Writes the model with neurons masked, as ``save_pretrained`` writes it, with its processor and a card.

    Args:
        vlm: The model; it is left as it was.
        neurons: Of its sites.
        out: A folder that is not there yet.
        samples: On which what was written is compared with the model under hooks.
        prompt: What it is asked, where a sample has no question of its own.
        intervention: Default: zero.
        max_new_tokens: Longest answer that is compared.
        found: What a study found in the model.

    Raises:
        OptionError: No edit of the weights does what the intervention does, or ``out`` is there.
        ModelError: The weights cannot be edited, or what was written answers otherwise; nothing is left behind.
    """
    check_expressible(intervention or Zero())
    check_free(out)
    asked = Asked(samples, prompt, max_new_tokens)
    wanted, about = asked.of(vlm, neurons), masked_card(vlm, neurons, len(samples))
    did = f"{len(neurons):,} neurons masked for good"
    origin = Origin(did=did, model=str(vlm.identity()), neurons=len(neurons), before=found)

    def finish(folder: Path, difference: float) -> None:
        origin.write(folder)
        (folder / NEURONS).write_text(neurons.to_json())
        (folder / CARD).write_text(about(difference))

    with edited(vlm.model, [MergedMask(neurons)]):
        difference = write(vlm, out, wanted, asked, finish)
    return Exported(Path(out), len(neurons), len(samples), difference)


def check_expressible(intervention: Intervention) -> None:
    """Whether an intervention can be written into weights.

    Raises:
        OptionError: It cannot; with the reason.
    """
    if intervention.positions != "all":
        raise OptionError(
            f"{intervention.id!r} acts on some tokens, and weights are the same for all; export a mask of all positions"
        )
    if not isinstance(intervention, Zero):
        raise OptionError(
            f"weights express the mask 'zero' alone, and not {intervention.id!r}; export that, or mask with hooks"
        )
