"""A model that does the same and depends less on some neurons, as an ordinary checkpoint.

What is done to it is up to a :class:`~lesion.remedies.remedy.Remedy`: :class:`~lesion.remedies.split.Split` or
:class:`~lesion.remedies.rotate.Rotate`. Here the result is written, loaded again and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample
from lesion.models.discovery import discover
from lesion.models.memory import weights
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.card import CARD, NEURONS, hardened_card
from lesion.remedies.checkpoint import Asked, Said, check_free, write
from lesion.remedies.remedy import Change, Remedy
from lesion.study.origin import Before, Origin


@dataclass(frozen=True)
class Cost:
    """What a change that is not exact costs.

    Attributes:
        before: Perplexity that the original gives its own answers; None where it is not finite.
        after: That the changed model gives them.
        samples: On how many, which the change has not seen.
    """

    before: float | None
    after: float | None
    samples: int

    @classmethod
    def of(cls, vlm: VisionLanguageModel, asked: Asked, original: Said) -> Cost:
        """Of a changed model, on the second half of what is asked.

        Args:
            vlm: The model, changed.
            asked: The samples.
            original: What the model said of all of them before.
        """
        judged = asked.halves()[1]
        said = original.last(len(judged.samples))
        return cls(said.perplexity(), judged.of_answers(vlm, said.answers).perplexity(), len(said.answers))

    def __str__(self) -> str:
        before, after = ("not finite" if x is None else f"{x:.4g}" for x in (self.before, self.after))
        return f"The perplexity of the original's answers to {self.samples} samples goes from {before} to {after}"


@dataclass(frozen=True)
class Hardened:
    """A checkpoint that was written, and how it was verified.

    Attributes:
        path: The folder.
        neurons: For how many it is a remedy.
        change: What was done.
        size: Bytes of its weights, as a multiple of the original's.
        samples: On how many it answers as the original does; as the changed model does where that is another function.
        difference: Largest difference of log-probabilities, as a share of the largest.
        cost: Of a change that is not exact; None of one that is.
    """

    path: str
    neurons: int
    change: Change
    size: float
    samples: int
    difference: float
    cost: Cost | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; what was done is said by fields of the change's own."""
        return {
            "path": self.path, "neurons": self.neurons, "remedy": self.change.remedy, **self.change.as_dict(),
            "size": self.size, "samples": self.samples, "difference": self.difference,
            "cost": None if self.cost is None else asdict(self.cost),
        }  # fmt: skip

    def __str__(self) -> str:
        like = "as the original does" if self.cost is None else "as it did before it was written"
        paid = "" if self.cost is None else f". {self.cost}"
        return (
            f"{self.path}: {self.change.summary} ({self.size:.4f} times the weights); loaded again, it answers {self.samples} "
            f"samples {like} (log-probabilities within {self.difference:.1g}){paid}"
        )


def harden(
    vlm: VisionLanguageModel,
    neurons: NeuronSet,
    out: str | Path,
    remedy: Remedy,
    samples: Sequence[Sample],
    prompt: str,
    max_new_tokens: int = 32,
    found: Before | None = None,
) -> Hardened:
    """Writes the model after a remedy.

    Args:
        vlm: The model, which is changed: it is not to be used any more.
        neurons: Of its language model, as the remedy takes them.
        out: A folder that is not there yet.
        remedy: What is done.
        samples: On which what was written is compared with the original.
        prompt: What it is asked, where a sample has no question of its own.
        max_new_tokens: Longest answer that is compared.
        found: What a study found in the model, to be shown beside what one finds after.

    Raises:
        OptionError: The remedy's options make no sense, it is none for such neurons, or ``out`` is there.
        ModelError: The model is built otherwise, or what was written answers otherwise; nothing is left behind.
    """
    remedy.check()
    check_free(out)
    asked = Asked(samples, prompt, max_new_tokens)
    wanted, before, original, cost = asked.of(vlm), weights(vlm.model), vlm.identity(), None
    change = remedy.apply(vlm, neurons, asked)
    if not change.exact:
        cost = Cost.of(vlm, asked, wanted)
        wanted = asked.of(vlm)

    def finish(folder: Path, difference: float) -> None:
        (folder / NEURONS).write_text(neurons.to_json())
        for name, members in change.sets(discover(vlm.model)).items():
            (folder / name).write_text(members.to_json())
        Origin(did=change.summary, model=str(original), neurons=len(neurons), before=found).write(folder)
        card = hardened_card(vlm.name, original, neurons, change, len(samples), difference, str(cost or ""))
        (folder / CARD).write_text(card)

    difference = write(vlm, out, wanted, asked, finish)
    return Hardened(str(out), len(neurons), change, weights(vlm.model) / before, len(samples), difference, cost)
