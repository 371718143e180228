"""A masked model as an ordinary checkpoint, which any tool loads without lesion.

The mask is merged into the weights (:class:`lesion.hooks.edit.MergedMask`): the columns of the out-projection that a masked
unit writes through, or the row that a masked output channel is, become zero. What was written is loaded again and asked about
some samples, as the model under hooks is; where an answer differs, nothing is left behind.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample
from lesion.hooks.edit import MergedMask, WeightEdit, edited
from lesion.hooks.intervene import Intervention, Zero, mask
from lesion.models.identity import EDITS
from lesion.models.inputs import Answer
from lesion.models.loading import load
from lesion.models.quiet import no_bars
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.card import card
from lesion.study.place import check_place

if TYPE_CHECKING:
    import torch

NEURONS, CARD = "neurons.json", "README.md"
CLOSE = 1e-4
"""So much may the log-probabilities differ, as a share of the largest: sums are added in another order."""


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

    Raises:
        OptionError: No edit of the weights does what the intervention does, or ``out`` is there.
        ModelError: The weights cannot be edited, or what was written answers otherwise; nothing is left behind.
    """
    check_expressible(intervention or Zero())
    return _write(vlm, [MergedMask(neurons)], Path(out), neurons, _Asked(samples, prompt, max_new_tokens))


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


def check_free(out: str | Path) -> None:
    """Whether a folder can be made.

    Raises:
        OptionError: It is there.
        RunError: It cannot be made.
    """
    check_place(out)
    if Path(out).exists():
        raise OptionError(f"{out} is there; choose a folder that is not")


@dataclass(frozen=True)
class _Asked:
    """What both models are asked."""

    samples: Sequence[Sample]
    prompt: str
    max_new_tokens: int

    def of(self, vlm: VisionLanguageModel, masked: NeuronSet) -> _Answers:
        """What a model says with some neurons masked by hooks."""
        prompts = [vlm.prompt(sample, self.prompt) for sample in self.samples]
        with vlm.prepared(), mask(vlm.model, masked):
            contexts = vlm.embed(prompts)
            answers = vlm.generate(contexts, self.max_new_tokens)
            return _Answers(answers, vlm.answer_log_probs(contexts, answers))


def _write(
    vlm: VisionLanguageModel, edits: Sequence[WeightEdit], out: Path, neurons: NeuronSet, asked: _Asked
) -> Exported:
    """Writes the model with edits, and compares what was written with a mask by hooks; see :func:`export`."""
    check_free(out)
    wanted = asked.of(vlm, neurons)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        with edited(vlm.model, edits):
            _save(vlm, made)
        again = load(str(made), str(vlm.model.dtype).removeprefix("torch."), str(vlm.device))
        difference = wanted.check(asked.of(again, NeuronSet()))
        (made / NEURONS).write_text(neurons.to_json())
        (made / CARD).write_text(card(vlm, neurons, len(asked.samples), difference))
        made.chmod(0o755)
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Exported(out, len(neurons), len(asked.samples), difference)


def _save(vlm: VisionLanguageModel, folder: Path) -> None:
    """As any tool reads it; what lesion notes in a configuration stays out."""
    with no_bars():
        vlm.model.save_pretrained(folder)
        vlm.processor.save_pretrained(folder)
    config = folder / "config.json"
    data = json.loads(config.read_text())
    data.pop(EDITS, None)
    config.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    for file in folder.iterdir():
        shutil.copymode(config, file)  # weights are written for their owner alone


@dataclass(frozen=True)
class _Answers:
    """What a model says, and how likely it finds that, ``[tokens, vocabulary]`` a sample."""

    answers: Sequence[Answer]
    log_probs: Sequence[torch.Tensor]

    def check(self, found: _Answers) -> float:
        """Compares what was written with the model under hooks; the largest difference, as a share."""
        import torch

        for i, (mine, theirs) in enumerate(zip(self.answers, found.answers, strict=True)):
            if mine.ids != theirs.ids:
                raise ModelError(
                    f"sample {i}: what was written says {theirs.text[:60]!r}, and the model under hooks {mine.text[:60]!r}; "
                    "the weights do not express this mask"
                )
        pairs = [(a.float(), b.float()) for a, b in zip(self.log_probs, found.log_probs, strict=True) if a.numel()]
        worst = max((float((a - b).abs().max() / a.abs().max()) for a, b in pairs), default=0.0)
        if not worst <= CLOSE or not all(torch.isfinite(b).all() for _, b in pairs):
            raise ModelError(f"log-probabilities of what was written differ by {worst:.2g}; expected at most {CLOSE:g}")
        return worst
