"""A :class:`Bench`: a model on samples, in a run directory in which everything is computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lesion.ablation.evaluator import Evaluator
from lesion.ablation.measure import Ablation
from lesion.ablation.spent import Spent
from lesion.core.errors import DataError
from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample, digest
from lesion.hooks.intervene import Intervention
from lesion.models.inputs import Answer, Prompt
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.options import StudyOptions
from lesion.study.rundir import RunDirectory
from lesion.study.statistics import Importances, digest_of, statistics_of

if TYPE_CHECKING:
    from lesion.ablation.clip import ClipScorer
    from lesion.core.identity import Identity
    from lesion.core.progress import Progress


class Bench:
    """A model on samples.

    Attributes:
        options: What is asked, and how answers are made.
        vlm: The model.
        identity: Which model it is.
        samples: Sample id -> sample: all that are ranked or measured on.
        measured: The samples that masks are measured on.
        clip: None for no CLIP score.
        run: Where everything is kept.
        progress: Listens to the stages.
        notes: What a reader should know before believing the answer; grows.
    """

    options: StudyOptions
    vlm: VisionLanguageModel
    identity: Identity
    samples: dict[str, Sample]
    measured: list[Sample]
    clip: ClipScorer | None
    run: RunDirectory
    progress: Progress
    notes: list[str]

    def note(self, line: str) -> None:
        """A line for the reader of the answer, and for the user now; the same line once."""
        if line not in self.notes:
            self.notes.append(line)
            self.progress.warn(line)

    @cached_property
    def spent(self) -> Spent:
        """What answering under masks took since the bench was set up."""
        return Spent()

    # -- what is computed once -----------------------------------------------------------------------------------------
    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Sample id -> its processed prompt."""
        with self.progress.stage("preparing images", len(self.samples)) as advance:
            prompts = {}
            for sample in self.samples.values():
                prompts[sample.id] = self.vlm.prompt(sample, self.options.prompt)
                advance(1)
            return prompts

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """Sample id -> the intact model's own answer; kept in ``answers.json``."""
        key = self.key("answers", digest(list(self.samples.values())))
        kept = self.run.read_as(rundir.ANSWERS, lambda data: None if data["key"] != key else {
            id: Answer.from_dict(answer) for id, answer in data["answers"].items()
        })
        if kept is not None:
            return kept
        answers: dict[str, Answer] = {}
        ids, size = list(self.samples), self.options.batch_size
        prompts = self.prompts
        with self.progress.stage("intact answers", len(ids)) as advance:
            for i in range(0, len(ids), size):
                part = ids[i : i + size]
                contexts = self.vlm.embed([prompts[id] for id in part])
                answers |= dict(zip(part, self.vlm.generate(contexts, self.options.max_new_tokens), strict=True))
                advance(len(part))
        self.run.write_json(rundir.ANSWERS, {"key": key, "answers": {id: a.as_dict() for id, a in answers.items()}})
        return answers

    @cached_property
    def targets(self) -> dict[str, Answer]:
        """Sample id -> the text whose likelihood is the loss and the reference perplexity."""
        if self.options.target == "answer":
            return self.answers
        missing = [s.id for s in self.samples.values() if not s.reference]
        if missing:
            raise DataError(f"{missing[0]} has no reference text ({len(missing)} such samples); use --target answer")
        return {id: self.vlm.encode(s.reference or "") for id, s in self.samples.items()}

    def ablation(
        self,
        samples: Sequence[Sample] | None = None,
        intervention: Intervention | None = None,
        importances: Importances | None = None,
        alone: bool = False,
    ) -> Ablation:
        """What masks do.

        Args:
            samples: On which; default: those to measure on.
            intervention: Default: the options'.
            importances: Hold the scorers of the statistics that the intervention needs (:mod:`lesion.study.statistics`).
            alone: One sample at a time, whatever the batch size.

        Raises:
            OptionError: A statistic of a site was not measured.
        """
        chosen, act = list(self.measured if samples is None else samples), intervention or self.options.intervention()
        statistics = statistics_of(act, importances or {})
        ids, options = [s.id for s in chosen], self.options

        def evaluator() -> Evaluator:
            return Evaluator.of(
                self.vlm, chosen, [self.prompts[i] for i in ids], [self.answers[i] for i in ids],
                [self.targets[i] for i in ids], self.clip, options.max_new_tokens, options.batch_size, statistics,
                self.spent, alone,
            )  # fmt: skip

        clip, data, values = self.clip.name if self.clip else None, digest(chosen), digest_of(statistics)

        def key(neurons: NeuronSet) -> str:
            # Without neurons it is the intact model, whatever would become of them.
            what = ("intact", "") if not len(neurons) else (act.id, values)
            return self.key("mask", neurons.digest, *what, data, options.target, clip, *(["alone"] if alone else []))

        return Ablation(evaluator, act, options.rule(), key, self.run, self.progress)

    def key(self, *parts: Any) -> str:
        """The hash of the model and of everything that decides an outcome."""
        common = (self.identity.key, str(self.vlm.model.dtype), self.options.prompt, self.options.max_new_tokens)
        return hashlib.sha256(json.dumps([*common, *parts]).encode()).hexdigest()[:24]
