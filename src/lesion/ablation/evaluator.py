"""The :class:`Evaluator` measures a model under masks: answers, perplexities, CLIP score, mode of every answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from lesion.ablation.clip import ClipScorer
from lesion.ablation.replies import Said
from lesion.ablation.units import Request
from lesion.core.errors import OptionError
from lesion.core.evaluation import Evaluation
from lesion.core.modes import mode_of, not_text, repeated_ngrams, token_agreement, yes_or_no
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood, SampleOutcome
from lesion.core.sites import Site
from lesion.data.samples import Sample
from lesion.hooks.intervention import INTERVENTIONS, Intervention, Zero
from lesion.models.inputs import Answer
from lesion.models.vlm import VisionLanguageModel


def usable_masks(vlm: VisionLanguageModel, sites: Iterable[Site]) -> tuple[str, ...]:
    """The names of the built-in masks (zero, mean, class-mean) that are for some sites of a model."""
    chosen, usable = list(sites), []
    for name in ("zero", "mean", "class-mean"):
        try:
            INTERVENTIONS[name]().check(chosen, vlm.is_encoder_decoder)
        except OptionError:
            continue
        usable.append(name)
    return tuple(usable)


class Replies(Protocol):
    """What answers requests, on samples that it knows; :class:`~lesion.ablation.replies.MaskedReplies` is one."""

    @property
    def room(self) -> int:
        """How many requests cost little more than one."""
        ...

    def __call__(self, requests: Sequence[Request], apart: bool = False) -> Iterator[dict[int, list[Said]]]:
        """What was said of each sample, by a request's place; ``apart`` for each request by itself."""
        ...

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[dict[int, list[Likelihood]]]:
        """How likely the reference answers are; ``hold`` where :meth:`__call__` will be asked the same."""
        ...

    def tokens(self, requests: Sequence[Request]) -> Iterator[dict[int, list[Sequence[float]]]]:
        """The negative log-likelihood of each token of the reference answers, in nats."""
        ...


class Evaluator:
    """Measures what masks do, on samples whose intact answers are known.

    Args:
        vlm: The model.
        samples: On what it is measured.
        intact: The intact model's own answers.
        clip: None for no CLIP score.
        replies: Answers requests about these samples.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        samples: Sequence[Sample],
        intact: Sequence[Answer],
        clip: ClipScorer | None,
        replies: Replies,
    ) -> None:
        self.vlm, self.samples, self.intact, self.clip, self.replies = vlm, list(samples), list(intact), clip, replies
        texts = [a.text for a in self.intact]
        self.chance: list[float] | None = clip.chance(self.samples, texts) if clip else None
        self._intact_clip = clip.score(self.samples, texts) if clip else None

    @property
    def room(self) -> int:
        """How many requests cost little more than one."""
        return self.replies.room

    def stream(self, requests: Sequence[Request], apart: bool = False) -> Iterator[dict[int, Evaluation]]:
        """Masks and measures.

        Args:
            requests: A request without neurons measures the intact model.
            apart: Each goes through the model by itself.

        Yields:
            A request's place -> its evaluation, for those that went through the model together.

        Raises:
            OptionError: An intervention is not for its neurons' sites, or statistics that it needs are missing.
        """
        self._check(requests)
        for group in self.replies(requests, apart):
            yield {place: self._evaluation(requests[place], said) for place, said in group.items()}

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[dict[int, list[Likelihood]]]:
        """The likelihoods of the reference answers alone, one a sample; otherwise as :meth:`stream`.

        Args:
            requests: What is asked.
            hold: Whether all that :meth:`stream` tells of them will be asked for too.
        """
        self._check(requests)
        yield from self.replies.read(requests, hold)

    def tokens(self, requests: Sequence[Request]) -> Iterator[dict[int, list[Sequence[float]]]]:
        """The negative log-likelihood of each token of each sample's reference answer, in nats; otherwise as :meth:`stream`."""
        self._check(requests)
        yield from self.replies.tokens(requests)

    def _check(self, requests: Sequence[Request]) -> None:
        """Whether each intervention is for its neurons' sites."""
        for request in requests:
            request.intervention.check(request.neurons.sites, self.vlm.is_encoder_decoder)

    def many(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Masks and measures, in the order of the requests; see :meth:`stream`."""
        found = {place: evaluation for group in self.stream(requests) for place, evaluation in group.items()}
        return [found[place] for place in range(len(requests))]

    def __call__(self, neurons: NeuronSet, intervention: Intervention | None = None) -> Evaluation:
        """One set of neurons; default: set to zero."""
        return self.many([Request(neurons, intervention or Zero())])[0]

    def _evaluation(self, request: Request, said: Sequence[Said]) -> Evaluation:
        clips = self.clip.score(self.samples, [s.answer.text for s in said]) if self.clip else [None] * len(said)
        outcomes = (self._outcome(i, s, clip) for i, (s, clip) in enumerate(zip(said, clips, strict=True)))
        return Evaluation(len(request.neurons), tuple(outcomes))

    def _outcome(self, i: int, said: Said, clip: float | None) -> SampleOutcome:
        intact, right, answer = self.intact[i], yes_or_no(self.samples[i].reference), said.answer
        body = [t for t in answer.ids if t not in self.vlm.eos]
        special = sum(t in self.vlm.tokenizer.all_special_ids for t in body)
        exact, repeated = answer.text == intact.text, repeated_ngrams(body)
        strange = not_text(answer.text, len(body), special)
        chance = self.chance[i] if self.chance else None
        intact_clip = self._intact_clip[i] if self._intact_clip else None
        mode = mode_of(answer.text, exact, repeated, strange, said.generated_intact, said.baseline, clip, chance, intact_clip)
        return SampleOutcome(
            id=self.samples[i].id, answer=answer.text, reference=said.reference, generated=said.generated,
            generated_intact=said.generated_intact, clip=clip, kl=said.kl, agreement=token_agreement(answer.ids, intact.ids),
            exact=exact, repeated=repeated, not_text=strange, mode=mode,
            correct=None if right is None else yes_or_no(answer.text) == right,
        )  # fmt: skip
