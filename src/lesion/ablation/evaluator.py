"""The :class:`Evaluator` measures a model under masks: answers, perplexities, CLIP score, mode of every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lesion.ablation.clip import ClipScorer
from lesion.core.errors import OptionError
from lesion.core.evaluation import Evaluation
from lesion.core.modes import mode_of, not_text, repeated_ngrams, token_agreement, yes_or_no
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood, SampleOutcome
from lesion.core.sites import Site
from lesion.data.samples import Sample
from lesion.hooks.intervene import INTERVENTIONS, Intervention, Statistics, Zero, mask
from lesion.hooks.layout import TokenLayout
from lesion.models.inputs import Answer, Prompt
from lesion.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    import torch


_KEPT = 2**27
"""Numbers (float32, half a gigabyte) of the intact model's distributions that are kept between masks."""


@dataclass(frozen=True)
class Request:
    """A question to the evaluator: what does this intervention on these neurons do?"""

    neurons: NeuronSet
    intervention: Intervention = field(default_factory=Zero)


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


class Evaluator:
    """Measures what masks do, on samples whose intact answers are known.

    The embeddings that the language model is given are computed once a sample; a mask that touches other parts has them
    computed anew.

    Args:
        vlm: The model.
        samples: On what it is measured.
        prompts: The samples' processed prompts.
        intact: The intact model's own answers.
        references: The answers whose likelihood is ``ppl_reference``: the intact ones, or given texts.
        clip: None for no CLIP score.
        max_new_tokens: Longest answer.
        batch_size: Samples at a time; does not change the result but for rounding.
        statistics: Those that the requests' interventions need.
    """

    room = 1
    """How many requests cost little more than one."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        samples: Sequence[Sample],
        prompts: Sequence[Prompt],
        intact: Sequence[Answer],
        references: Sequence[Answer],
        clip: ClipScorer | None,
        max_new_tokens: int,
        batch_size: int,
        statistics: Statistics | None = None,
    ) -> None:
        self.vlm, self.samples, self.prompts = vlm, list(samples), list(prompts)
        self.intact, self.references, self.clip = list(intact), list(references), clip
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.statistics: Statistics = statistics or {}
        # An encoder-decoder's tokens are not in one line.
        self._classes = None if vlm.is_encoder_decoder else [vlm.token_classes(p) for p in self.prompts]
        self._contexts: list[Any] | None = None
        self._baselines: dict[int, Likelihood] = {}
        self._reference_intact: dict[int, torch.Tensor] = {}
        texts = [a.text for a in self.intact]
        self.chance: list[float] | None = clip.chance(self.samples, texts) if clip else None
        self._intact_clip = clip.score(self.samples, texts) if clip else None

    def many(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Evaluation]:
        """Masks and measures, one request after the other.

        Args:
            requests: A request without neurons measures the intact model.
            progress: Called with 1 after each request.

        Raises:
            OptionError: An intervention is not for its neurons' sites, or statistics that it needs are missing.
        """
        evaluations = []
        for request in requests:
            request.intervention.check(request.neurons.sites, self.vlm.is_encoder_decoder)
            outcomes: list[SampleOutcome] = []
            for start in range(0, len(self.samples), self.batch_size):
                rows = range(start, min(start + self.batch_size, len(self.samples)))
                outcomes += self._batch(rows, request)
            evaluations.append(Evaluation(len(request.neurons), tuple(outcomes)))
            if progress is not None:
                progress(1)
        return evaluations

    def __call__(self, neurons: NeuronSet, intervention: Intervention | None = None) -> Evaluation:
        """One set of neurons; default: set to zero."""
        return self.many([Request(neurons, intervention or Zero())])[0]

    def _intact_contexts(self, rows: Sequence[int]) -> list[Any]:
        if self._contexts is None:
            self._contexts = []
            for i in range(0, len(self.prompts), self.batch_size):
                self._contexts += self.vlm.embed(self.prompts[i : i + self.batch_size])
        return [self._contexts[i] for i in rows]

    def _intact_log_probs(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """The intact model's distributions on the references; kept, as far as they are small.

        Its perplexity on its own answer comes with them, since its perplexity on another one is held against that.
        """
        if all(i in self._reference_intact for i in rows):
            return [self._reference_intact[i] for i in rows]
        contexts = self._intact_contexts(rows)
        references, answers = ([of[i] for i in rows] for of in (self.references, self.intact))
        on_references = self.vlm.answer_log_probs(contexts, references)
        own = on_references if references == answers else self.vlm.answer_log_probs(contexts, answers)
        for i, log_probs, answer in zip(rows, own, answers, strict=True):
            self._baselines[i] = likelihood(log_probs, answer)
        kept = sum(t.numel() for t in (*self._reference_intact.values(), *on_references))
        if kept <= _KEPT:
            self._reference_intact |= dict(zip(rows, on_references, strict=True))
        return on_references

    def _batch(self, rows: range, request: Request) -> list[SampleOutcome]:
        references = [self.references[i] for i in rows]
        intact_contexts = self._intact_contexts(rows)
        language_only = all(site.component == "language" for site in request.neurons.sites)
        layout = None if self._classes is None else TokenLayout()

        def expect(answers: Sequence[Answer] | None = None) -> None:
            if layout is not None and self._classes is not None:
                together = answers is not None and self.vlm.engine.one_pass
                layout.expect([self._classes[i] for i in rows], [len(a.ids) for a in answers or ()] if together else None)

        with mask(self.vlm.model, request.neurons, request.intervention, self.statistics, layout):
            contexts = intact_contexts if language_only else self.vlm.embed([self.prompts[i] for i in rows])
            expect()
            answers = self.vlm.generate(contexts, self.max_new_tokens)
            expect(references)
            reference_masked = self.vlm.answer_log_probs(contexts, references)
            expect(answers)
            generated_masked = self.vlm.answer_log_probs(contexts, answers)
        reference_intact = self._intact_log_probs(rows)
        generated_intact = self.vlm.answer_log_probs(intact_contexts, answers)
        clips = self.clip.score([self.samples[i] for i in rows], [a.text for a in answers]) if self.clip else None
        return [
            self._outcome(
                i,
                answers[n],
                likelihood(reference_masked[n], references[n]),
                likelihood(generated_masked[n], answers[n]),
                likelihood(generated_intact[n], answers[n]),
                self._baselines[i],
                None if clips is None else clips[n],
                _divergence(reference_intact[n], reference_masked[n]),
            )
            for n, i in enumerate(rows)
        ]

    def _outcome(
        self,
        i: int,
        answer: Answer,
        reference: Likelihood,
        generated: Likelihood,
        generated_intact: Likelihood,
        baseline: Likelihood,
        clip: float | None,
        kl: float | None,
    ) -> SampleOutcome:
        intact, right = self.intact[i], yes_or_no(self.samples[i].reference)
        body = [t for t in answer.ids if t not in self.vlm.eos]
        special = sum(t in self.vlm.tokenizer.all_special_ids for t in body)
        exact, repeated = answer.text == intact.text, repeated_ngrams(body)
        strange = not_text(answer.text, len(body), special)
        chance = self.chance[i] if self.chance else None
        intact_clip = self._intact_clip[i] if self._intact_clip else None
        return SampleOutcome(
            id=self.samples[i].id, answer=answer.text, reference=reference, generated=generated,
            generated_intact=generated_intact, clip=clip, kl=kl, agreement=token_agreement(answer.ids, intact.ids), exact=exact,
            repeated=repeated, not_text=strange,
            mode=mode_of(answer.text, exact, repeated, strange, generated_intact, baseline, clip, chance, intact_clip),
            correct=None if right is None else yes_or_no(answer.text) == right,
        )  # fmt: skip


def likelihood(log_probs: torch.Tensor, answer: Answer) -> Likelihood:
    """Of an answer, from the log-probabilities before each of its tokens, ``[tokens, vocabulary]``."""
    import torch

    chosen = log_probs.gather(1, torch.tensor(answer.ids, device=log_probs.device)[:, None])[:, 0]
    return Likelihood.of((-chosen).tolist())


def _divergence(intact: torch.Tensor, masked: torch.Tensor) -> float | None:
    """Mean over tokens of KL(intact || masked), in nats; None where it is not finite."""
    import torch

    value = torch.nn.functional.kl_div(masked, intact, reduction="none", log_target=True).sum(1).mean()
    return float(value) if bool(torch.isfinite(value)) else None
