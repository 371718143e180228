"""A study's :class:`Workload`: what each of its stages asks for, if the model collapses at a given k*."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lesion.ablation.controls import KINDS
from lesion.ablation.smallest import CHUNK
from lesion.ablation.units import Grouping
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.planning.load import Load, load
from lesion.planning.rehearsal import Masking
from lesion.scoring.score import score
from lesion.scoring.scorers import get_scorer
from lesion.study.importances import study_scorers
from lesion.study.measured_search import ASKED, EVERY_PART, PART
from lesion.study.options import StudyOptions
from lesion.study.session import Session
from lesion.study.shortlist import INTEGRATED, SCORERS
from lesion.study.steepest_chain import COST


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
        everything, _, measured = self.counts
        critical = None if k_star is None else ranking.top(k_star)
        masking = self._masking(1, measured, critical)
        found = {
            "answers": [load("answer", math.ceil(everything / options.batch_size), everything)],
            "importance": self._scored(study_scorers(options)),
        }
        _ = masking.ablation.baseline
        curve = masking.ablation.curve(ranking, options.max_k)
        found["curve"] = self._taken(masking)
        alone = self._masking(2, measured, critical)
        if k_star is not None:
            _ = alone.ablation.baseline
            for k in [k for k in curve.ks if 0 < k <= k_star][-2:]:
                alone.ablation.many([ranking.top(k)])
        found["confirmed"] = self._taken(alone)
        if k_star is not None and k_star <= options.minimal_limit:
            masking.ablation.minimal(ranking, k_star)
        found["minimal"] = self._taken(masking)
        if k_star is not None:
            masking.ablation.many(_others(ranking, k_star, len(KINDS) * options.controls))
        found["controls"] = self._taken(masking)
        masking.ablation.many([ranking[-1:]])
        found["blind"] = self._taken(masking)
        found["search"] = self._searched(ranking, critical) if options.search == "measured" else []
        return found

    def _masking(self, which: int, count: int, critical: NeuronSet | None) -> Masking:
        return Masking.of(self.groupings[which], count, self.replicas, critical, self.options.rule(), self.clip)

    def _taken(self, masking: Masking) -> list[Load]:
        loads = list(masking.loads)
        masking.loads.clear()
        return loads

    def _scored(self, scorers: Iterable[str]) -> list[Load]:
        """A load for each pass over the samples that are ranked on; scorers of one kind share it."""
        options, ranked = self.options.scoring(), self.counts[1]
        kinds = [get_scorer(name) for name in scorers if get_scorer(name).reduce is not None]
        shared = {scorer.pass_for(options) for scorer in kinds if scorer.everywhere}
        if "gradient" in shared:
            shared.discard("forward")  # which it gives too
        dear = [scorer.passes(options, len(self.sites))[0] for scorer in kinds if not scorer.everywhere]
        return [self._pass(ranked) for _ in range(len(shared))] + [self._pass(times * ranked) for times in dear]

    def _pass(self, samples: int) -> Load:
        return load("score", math.ceil(samples / self.batch), samples)

    def _searched(self, ranking: Ranking, critical: NeuronSet | None) -> list[Load]:
        """At most: a search that finds its end stops before its budget."""
        options, (_, ranked, measured) = self.options, self.counts
        seeking, part = self._masking(0, ranked, critical), options.search_budget // PART
        loads: list[Load] = []
        if (options.mask, options.mask_positions) == ("zero", "all"):
            for i in range(part // (COST + 1)):
                loads.append(self._pass(ranked))
                seeking.ablation.collapses([ranking[: i + 1]])
                loads += self._taken(seeking)
        loads += self._scored([name for name in SCORERS if name not in (INTEGRATED, *study_scorers(options))])
        loads.append(self._pass(part // COST * ranked))
        for sets in _chunks(ranking, options.search_budget - 2 * part):
            seeking.ablation.readings(sets)
        loads += self._taken(seeking)
        judging = self._masking(1, measured, critical)
        judging.ablation.many([ranking.top(i + 1) for i in range(ASKED)])
        judging.ablation.readings([ranking[i : i + 2] for i in range(min(2**EVERY_PART - 2, len(ranking) - 1))])
        judging.ablation.many(_others(ranking, ASKED, (len(KINDS) + 1) * options.controls))
        return loads + self._taken(judging)


def _others(ranking: Ranking, size: int, count: int) -> list[NeuronSet]:
    """Different sets of a size, as far as there are any; none is the first of the ranking."""
    return [ranking[i : i + size] for i in range(1, min(count, len(ranking) - size) + 1)]


def _chunks(ranking: Ranking, budget: int) -> list[Sequence[NeuronSet]]:
    """Different sets, as many at a time as a search asks about."""
    pairs = [ranking[i : i + 2] for i in range(min(budget, len(ranking) - 1))]
    return [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]


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
