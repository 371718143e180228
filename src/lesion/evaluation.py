"""The :class:`Evaluator` measures a model under a mask: answers, perplexities, CLIP score, mode of every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from lesion.clip import ClipScorer
from lesion.data import Sample
from lesion.errors import OptionError
from lesion.masking import VALUES, Layout, Means, mask
from lesion.metrics import Judged, Likelihood, mode_of, not_text, repeated_ngrams, token_agreement
from lesion.models.inputs import Answer, Prompt
from lesion.models.vlm import VisionLanguageModel
from lesion.neurons import NeuronSet
from lesion.sites import Site

if TYPE_CHECKING:
    import torch


_KEPT = 2**27
"""Numbers (float32, half a gigabyte) of the intact model's distributions that are kept between masks."""


def usable_masks(vlm: VisionLanguageModel, sites: Iterable[Site]) -> tuple[str, ...]:
    """The values (:data:`lesion.masking.VALUES`) that neurons of some sites can be set to.

    An expert is given few tokens, so its neurons' mean over all tokens is no value that it ever has; and an encoder-decoder's
    tokens are not in one line.
    """
    if any(site.expert is not None for site in sites):
        return VALUES[:1]
    return VALUES[:2] if vlm.two_stacks else VALUES


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
        value: What a masked neuron is set to; see :func:`lesion.masking.mask`.
        means: For ``value="mean"`` and ``"class-mean"``.

    Raises:
        OptionError: Class means for an encoder-decoder, whose tokens are not in one line.
    """

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
        value: str = "zero",
        means: Means | None = None,
    ) -> None:
        self.vlm, self.samples, self.prompts = vlm, list(samples), list(prompts)
        self.intact, self.references, self.clip = list(intact), list(references), clip
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.value, self.means = value, means
        if value == "class-mean" and vlm.two_stacks:
            raise OptionError("class means are for decoders; this model's prompt is read by an encoder; use --mask mean")
        self._classes = [vlm.token_classes(p) for p in self.prompts] if value == "class-mean" else None
        self._embeds: list[torch.Tensor] | None = None
        self._baselines: dict[int, Likelihood] = {}
        self._reference_intact: dict[int, torch.Tensor] = {}
        texts = [a.text for a in self.intact]
        self.chance: list[float] | None = clip.chance(self.samples, texts) if clip else None
        self._intact_clip = clip.score(self.samples, texts) if clip else None

    def __call__(self, neurons: NeuronSet, progress: Callable[[int], None] | None = None) -> list[Judged]:
        """Masks the neurons and measures every sample.

        Args:
            neurons: Which; the empty set measures the intact model.
            progress: Called with the number of samples after each batch.
        """
        judged: list[Judged] = []
        for start in range(0, len(self.samples), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(self.samples)))
            judged += self._batch(rows, neurons)
            if progress is not None:
                progress(len(rows))
        return judged

    def _intact_embeds(self, rows: Sequence[int]) -> list[torch.Tensor]:
        if self._embeds is None:
            self._embeds = []
            for i in range(0, len(self.prompts), self.batch_size):
                self._embeds += self.vlm.embed(self.prompts[i : i + self.batch_size])
        return [self._embeds[i] for i in rows]

    def _intact_log_probs(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """The intact model's distributions on the references; kept, as far as they are small.

        Its perplexity on its own answer comes with them, since its perplexity on another one is held against that.
        """
        if all(i in self._reference_intact for i in rows):
            return [self._reference_intact[i] for i in rows]
        embeds = self._intact_embeds(rows)
        references, answers = ([given[i] for i in rows] for given in (self.references, self.intact))
        found = self.vlm.answer_log_probs(embeds, references)
        own = found if references == answers else self.vlm.answer_log_probs(embeds, answers)
        for i, log_probs, answer in zip(rows, own, answers, strict=True):
            self._baselines[i] = likelihood(log_probs, answer)
        kept = sum(t.numel() for t in (*self._reference_intact.values(), *found))
        if kept <= _KEPT:
            self._reference_intact |= dict(zip(rows, found, strict=True))
        return found

    def _batch(self, rows: range, neurons: NeuronSet) -> list[Judged]:
        references = [self.references[i] for i in rows]
        intact_embeds = self._intact_embeds(rows)
        language_only = all(site.component == "language" for site in neurons.sites)
        layout = Layout()

        def expect(given: Sequence[Answer] | None = None) -> None:
            if self._classes is not None:
                together = given is not None and self.vlm.engine.one_pass
                layout.expect([self._classes[i] for i in rows], [len(a.ids) for a in given or ()] if together else None)

        with mask(self.vlm.model, neurons, self.value, self.means, layout):
            embeds = intact_embeds if language_only else self.vlm.embed([self.prompts[i] for i in rows])
            expect()
            answers = self.vlm.generate(embeds, self.max_new_tokens)
            expect(references)
            reference_masked = self.vlm.answer_log_probs(embeds, references)
            expect(answers)
            generated_masked = self.vlm.answer_log_probs(embeds, answers)
        reference_intact = self._intact_log_probs(rows)
        generated_intact = self.vlm.answer_log_probs(intact_embeds, answers)
        clips = self.clip.score([self.samples[i] for i in rows], [a.text for a in answers]) if self.clip else None
        return [
            self._judge(
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

    def _judge(
        self,
        i: int,
        answer: Answer,
        reference: Likelihood,
        generated: Likelihood,
        generated_intact: Likelihood,
        baseline: Likelihood,
        clip: float | None,
        kl: float | None,
    ) -> Judged:
        intact = self.intact[i]
        body = [t for t in answer.ids if t not in self.vlm.eos]
        special = sum(t in self.vlm.tokenizer.all_special_ids for t in body)
        exact, repeated = answer.text == intact.text, repeated_ngrams(body)
        strange = not_text(answer.text, len(body), special)
        chance = self.chance[i] if self.chance else None
        intact_clip = self._intact_clip[i] if self._intact_clip else None
        mode = mode_of(answer.text, exact, repeated, strange, generated_intact, baseline, clip, chance, intact_clip)
        return Judged(
            self.samples[i].id, answer.text, reference, generated, generated_intact, clip, kl,
            token_agreement(answer.ids, intact.ids), exact, repeated, strange, mode,
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
