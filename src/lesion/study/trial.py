"""A :class:`Trial`: one image, answered by the intact model and by the model with some neurons masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesion.ablation.replies import likelihood
from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.identity import Identity
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import perplexity
from lesion.core.ranking import Ranking
from lesion.data.samples import Sample
from lesion.hooks.intervene import mask
from lesion.models.inputs import Answer
from lesion.models.vlm import VisionLanguageModel
from lesion.study.own import check_ranking, read_set
from lesion.study.rundir import CRITICAL, MANIFEST, RANKING, RunDirectory


@dataclass(frozen=True)
class Trial:
    """What a mask does to one answer.

    Attributes:
        sample: The image's id.
        prompt: The question.
        neurons: What was masked; they know in which model they were found.
        intact: The intact model's answer.
        masked: The masked model's answer.
        ppl_intact: Perplexity that the intact model gives its own answer.
        ppl_reference: Perplexity that the masked model gives the intact answer; None where it is not finite.
    """

    sample: str
    prompt: str
    neurons: NeuronSet
    intact: str
    masked: str
    ppl_intact: float | None
    ppl_reference: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        identity = self.neurons.identity
        return {
            "sample": self.sample, "prompt": self.prompt, "neurons": self.neurons.table(),
            "neurons_of": None if identity is None else identity.as_dict(), "intact": self.intact, "masked": self.masked,
            "ppl_intact": self.ppl_intact, "ppl_reference": self.ppl_reference,
        }  # fmt: skip


def attempt(vlm: VisionLanguageModel, sample: Sample, neurons: NeuronSet, prompt: str, max_new_tokens: int = 64) -> Trial:
    """Answers one sample twice, intact and masked.

    Args:
        vlm: The model; it is left as it was.
        sample: The image.
        neurons: What is masked; of this model's sites.
        prompt: The question, if the sample has none of its own.
        max_new_tokens: Longest answer.
    """
    prompts = [vlm.prompt(sample, prompt)]
    contexts = vlm.embed(prompts)
    (intact,) = vlm.generate(contexts, max_new_tokens)
    before = _perplexity(vlm, contexts, intact)
    with mask(vlm.model, neurons):
        contexts = vlm.embed(prompts)  # masks of the image part act on it
        (masked,) = vlm.generate(contexts, max_new_tokens)
        after = _perplexity(vlm, contexts, intact)
    return Trial(sample.id, sample.prompt or prompt, neurons, intact.text, masked.text, before, after)


def _perplexity(vlm: VisionLanguageModel, contexts: list[Any], answer: Answer) -> float | None:
    (log_probs,) = vlm.answer_log_probs(contexts, [answer])
    return perplexity(likelihood(log_probs, answer))


def read(file: str | None, run: str | None, top: int | None) -> NeuronSet | None:
    """The set that a user names, as far as it can be read without the model; None for the first of a ranking.

    Raises:
        OptionError: Neither a file nor a run, or both; or the first 0.
        NeuronSetError: They cannot be read, or are none.
    """
    if (file is None) == (run is None):
        raise OptionError("which neurons? give --neurons FILE, or --run RUN (its critical set), or --run RUN --top K")
    if top is not None and run is None:
        raise OptionError("--top needs --run RUN, whose ranking it counts in")
    if top is not None:
        if top < 1:
            raise OptionError(f"k is {top}; expected at least 1")
        check_ranking(Path(run or "") / RANKING)
        return None
    path = Path(run) / CRITICAL if run is not None else Path(file or "")
    neurons = read_set(path)
    if not len(neurons):
        raise NeuronSetError(f"{path} has no neurons, as after no collapse; --run RUN --top K takes the first K")
    return neurons


def neurons_of(
    vlm: VisionLanguageModel,
    file: str | None,
    run: str | None,
    top: int | None,
    force: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> NeuronSet:
    """The neurons that a user names.

    Args:
        vlm: The model that they must fit.
        file: A set's file; or else
        run: a run directory, whose critical set is taken, or
        top: so many of the first of its ranking.
        force: Take them though they were found in another model.
        warn: Called with one line where ``force`` decides it.

    Raises:
        OptionError: Neither a file nor a run, or both.
        NeuronSetError: They cannot be read, do not fit the model, were found in another one, or are none.
        RunError: The run's manifest cannot be read.
    """
    neurons = read(file, run, top)
    if neurons is None:
        assert run is not None and top is not None
        neurons = Ranking.load(Path(run) / RANKING, vlm.sites, top).top(top)
        neurons.identity = _identity_of(run)
    identity = vlm.identity()
    members = neurons.fit(vlm.sites, identity, force)
    if identity.differs_from(neurons.identity):
        warn(f"--force: the neurons were found in {neurons.identity}; this model is {identity}")
    return members


def _identity_of(run: str) -> Identity | None:
    """The model that a run directory was made with, which its ranking does not say; None where nothing says it."""
    manifest = RunDirectory(Path(run)).read_json(MANIFEST)
    try:
        return None if manifest is None else Identity.from_dict(manifest["model"])
    except (KeyError, TypeError):
        return None
