"""A :class:`Bench`: a model on samples, in a run directory, on which masks are measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from lesion.ablation.evaluator import Evaluator
from lesion.ablation.evaluators import evaluator_on
from lesion.ablation.measure import Ablation
from lesion.ablation.spent import Spent
from lesion.core.neurons import NeuronSet
from lesion.data.samples import Sample, digest
from lesion.hooks.intervention import Intervention
from lesion.study.answered import Answered
from lesion.study.statistics import Importances, digest_of, statistics_of

if TYPE_CHECKING:
    from lesion.ablation.clip import ClipScorer


class Bench(Answered):
    """A model on samples.

    Attributes:
        measured: The samples that masks are measured on.
        clip: None for no CLIP score.
        notes: What a reader should know before believing the answer; grows.
    """

    measured: list[Sample]
    clip: ClipScorer | None
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
            ground = self.ground(ids, statistics, alone)
            return evaluator_on(
                self.vlm, chosen, [self.prompts[i] for i in ids], ground, self.clip, self.spent, self.executor
            )

        clip, data, values = self.clip.name if self.clip else None, digest(chosen), digest_of(statistics)

        def key(neurons: NeuronSet) -> str:
            # Without neurons it is the intact model, whatever would become of them.
            what = ("intact", "") if not len(neurons) else (act.id, values)
            return self.key("mask", neurons.digest, *what, data, options.target, clip, *(["alone"] if alone else []))

        return Ablation(evaluator, act, options.rule(), key, self.run, self.progress)
