"""Writing a changed model as a checkpoint, and seeing that what was written is what was meant."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lesion.ablation.replies import likelihood
from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import perplexity, pool
from lesion.data.samples import Sample
from lesion.hooks.intervene import mask
from lesion.models.identity import EDITS
from lesion.models.inputs import Answer
from lesion.models.loading import load
from lesion.models.quiet import no_bars
from lesion.models.vlm import VisionLanguageModel
from lesion.study.place import check_place

if TYPE_CHECKING:
    import torch

CLOSE = 1e-4
"""So much may log-probabilities differ, as a share of the largest: sums are added in another order."""


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
class Said:
    """What a model says of some samples, and how likely it finds that.

    Attributes:
        answers: One a sample.
        log_probs: One a sample, ``[tokens, vocabulary]``.
    """

    answers: Sequence[Answer]
    log_probs: Sequence[torch.Tensor]

    def last(self, count: int) -> Said:
        """Of the last so many samples."""
        return Said(self.answers[-count:], self.log_probs[-count:])

    def perplexity(self) -> float | None:
        """Of the answers; None where it is not finite."""
        return perplexity(pool([likelihood(p, a) for p, a in zip(self.log_probs, self.answers, strict=True)]))

    def difference(self, found: Said) -> float:
        """Compares what was written with what was meant.

        Returns:
            The largest difference of log-probabilities, as a share of the largest.

        Raises:
            ModelError: An answer is another one, or the difference is larger than :data:`CLOSE`.
        """
        import torch

        for i, (mine, theirs) in enumerate(zip(self.answers, found.answers, strict=True)):
            if mine.ids != theirs.ids:
                said, meant = theirs.text[:60], mine.text[:60]
                raise ModelError(f"sample {i}: what was written says {said!r}, and should say {meant!r}; nothing was kept")
        pairs = [(a.float(), b.float()) for a, b in zip(self.log_probs, found.log_probs, strict=True) if a.numel()]
        worst = max((float((a - b).abs().max() / a.abs().max()) for a, b in pairs), default=0.0)
        if not worst <= CLOSE or not all(torch.isfinite(b).all() for _, b in pairs):
            raise ModelError(f"log-probabilities of what was written differ by {worst:.2g}; expected at most {CLOSE:g}")
        return worst


@dataclass(frozen=True)
class Asked:
    """What models are asked, to compare them.

    Attributes:
        samples: Some.
        prompt: Where a sample has no question of its own.
        max_new_tokens: Longest answer.
    """

    samples: Sequence[Sample]
    prompt: str
    max_new_tokens: int = 32

    def of(self, vlm: VisionLanguageModel, masked: NeuronSet | None = None) -> Said:
        """What a model says, with some neurons masked by hooks."""
        prompts = [vlm.prompt(sample, self.prompt) for sample in self.samples]
        with vlm.prepared(), mask(vlm.model, masked or NeuronSet()):
            contexts = vlm.embed(prompts)
            answers = vlm.generate(contexts, self.max_new_tokens)
            return Said(answers, vlm.answer_log_probs(contexts, answers))


    def halves(self) -> tuple[Asked, Asked]:
        """The first half of the samples, and the other; both are all where there is one sample."""
        half = len(self.samples) // 2
        return replace(self, samples=self.samples[:half] or self.samples), replace(self, samples=self.samples[half:])

    def of_answers(self, vlm: VisionLanguageModel, answers: Sequence[Answer]) -> Said:
        """How likely a model finds answers that another gave to the same samples."""
        prompts = [vlm.prompt(sample, self.prompt) for sample in self.samples]
        with vlm.prepared():
            return Said(answers, vlm.answer_log_probs(vlm.embed(prompts), answers))


def write(
    vlm: VisionLanguageModel, out: str | Path, wanted: Said, asked: Asked, finish: Callable[[Path, float], None]
) -> float:
    """Writes a model as ``save_pretrained`` does, with its processor; whole or not at all.

    Args:
        vlm: The model, changed.
        out: A folder that is not there yet.
        wanted: What the loaded folder must say.
        asked: What it is asked.
        finish: Adds files to the folder, before it has its name; told the difference.

    Returns:
        The difference (:meth:`Said.difference`).

    Raises:
        OptionError: The folder is there.
        ModelError: What was written says something else; nothing is left behind.
    """
    check_free(out)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        _save(vlm, made)
        again = load(str(made), str(vlm.model.dtype).removeprefix("torch."), str(vlm.device))
        difference = wanted.difference(asked.of(again))
        finish(made, difference)
        made.chmod(0o755)
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return difference


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
