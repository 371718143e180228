"""A study's :class:`Workload`: what each of its stages asks for, if the model collapses at a given k*."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lesion.ablation.controls import KINDS
from lesion.ablation.units import Grouping
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.planning.load import Load, load
from lesion.planning.rehearsal import Masking
from lesion.planning.scoring import Scoring
from lesion.planning.searching import others, searched
from lesion.scoring.score import score
from lesion.study.importances import study_scorers
from lesion.study.options import StudyOptions
from lesion.study.session import Session


@dataclass(frozen=True)
class Workload:
    """A study's question and its sizes.

    Attributes:
        options: Of the study.
        sites: Whose neurons are ranked.
        random: An importance of each; any will do.
        counts: How many samples there are, are ranked on, and are measured on.
        groupings: Of requests on the samples that are ranked on, that are measured on, and that are measured on one by one.
        clip: Whether there is a CLIP score.
        batch: So many samples are scored together.
        replicas: In other processes; 0 for this process's model.
    """

    options: StudyOptions
    sites: Sites
    random: Importance
    counts: tuple[int, int, int]
    groupings: tuple[Grouping, Grouping, Grouping]
    clip: bool
    batch: int
    replicas: int

    def stages(self, k_star: int | None) -> dict[str, list[Load]]:
        """What each stage asks for, by its name.

        Args:
            k_star: Where the model collapses; None for a model that never does.
        """
        options, ranking = self.options, Ranking(self.random, self.sites)
        everything, ranked, measured = self.counts
        scoring = Scoring(options.scoring(), len(self.sites), ranked, self.batch)
        critical = None if k_star is None else ranking.top(k_star)
        masking = self._masking(1, measured, critical)
        found = {
            "answers": [load("answer", math.ceil(everything / options.batch_size), everything)],
            "importance": scoring.by(study_scorers(options)),
        }
        _ = masking.ablation.baseline
        curve = masking.ablation.curve(ranking, options.max_k)
        found["curve"] = masking.taken()
        alone = self._masking(2, measured, critical)
        if k_star is not None:
            _ = alone.ablation.baseline
            for k in [k for k in curve.ks if 0 < k <= k_star][-2:]:
                alone.ablation.many([ranking.top(k)])
        found["confirmed"] = alone.taken()
        if k_star is not None and k_star <= options.minimal_limit:
            masking.ablation.minimal(ranking, k_star)
        found["minimal"] = masking.taken()
        if k_star is not None:
            masking.ablation.many(others(ranking, k_star, len(KINDS) * options.controls))
        found["controls"] = masking.taken()
        masking.ablation.many([ranking[-1:]])
        found["blind"] = masking.taken()
        found["search"] = []
        if options.search == "measured":
            seeking = self._masking(0, ranked, critical)
            found["search"] = searched(options, ranking, scoring, seeking, self._masking(1, measured, critical))
        return found

    def _masking(self, which: int, count: int, critical: NeuronSet | None) -> Masking:
        return Masking.of(self.groupings[which], count, self.replicas, critical, self.options.rule(), self.clip)


def workload_of(session: Session, options: StudyOptions, counts: tuple[int, int, int], replicas: int) -> Workload:
    """A study's workload.

    Args:
        session: Open, on some of the study's samples.
        options: Of the study.
        counts: As of :class:`Workload`.
        replicas: In other processes; 0 for this process's model.
    """
    # Only the longest prompt decides how much goes together.
    longest = max(session.prompts.values(), key=lambda p: p.inputs["input_ids"].shape[1])

    def grouping(count: int, alone: bool = False) -> Grouping:
        return Grouping(session.vlm, [longest], options.max_new_tokens, options.batch_size, alone, count=count)

    _, ranked, measured = counts
    [random] = score(session.vlm.model, session.sites, (), ["random"], options.scoring()).values()
    return Workload(
        options, session.sites, random, counts, (grouping(ranked), grouping(measured), grouping(measured, True)),
        session.clip is not None, options.batch_size if session.vlm.structure.family.rows_are_samples else 1, replicas,
    )  # fmt: skip
