"""What a measured search asks for, at most: one that finds its end stops before its budget."""

from __future__ import annotations

from collections.abc import Sequence

from lesion.ablation.controls import KINDS
from lesion.ablation.smallest import CHUNK
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.planning.load import Load
from lesion.planning.rehearsal import Masking
from lesion.planning.scoring import Scoring
from lesion.study.importances import study_scorers
from lesion.study.measured_search import ASKED, EVERY_PART, PART
from lesion.study.options import StudyOptions
from lesion.study.shortlist import INTEGRATED, SCORERS
from lesion.study.steepest_chain import COST


def searched(
    options: StudyOptions, ranking: Ranking, scoring: Scoring, seeking: Masking, judging: Masking
) -> list[Load]:
    """The steepest chain, the shortlist, the sets that are measured, and what is measured of the set that is found.

    Args:
        options: Of the study.
        ranking: Of its neurons.
        scoring: Of the samples that are ranked on.
        seeking: Masks on these.
        judging: Masks on those that are measured on.
    """
    part = options.search_budget // PART
    loads: list[Load] = []
    if (options.mask, options.mask_positions) == ("zero", "all"):
        for i in range(part // (COST + 1)):
            loads.append(scoring.passes())
            seeking.ablation.collapses([ranking[: i + 1]])
            loads += seeking.taken()
    loads += scoring.by([name for name in SCORERS if name not in (INTEGRATED, *study_scorers(options))])
    loads.append(scoring.passes(part // COST))
    for sets in _chunks(ranking, options.search_budget - 2 * part):
        seeking.ablation.readings(sets)
    judging.ablation.many([ranking.top(i + 1) for i in range(ASKED)])
    judging.ablation.readings([ranking[i : i + 2] for i in range(min(2**EVERY_PART - 2, len(ranking) - 1))])
    judging.ablation.many(others(ranking, ASKED, (len(KINDS) + 1) * options.controls))
    return loads + seeking.taken() + judging.taken()


def others(ranking: Ranking, size: int, count: int) -> list[NeuronSet]:
    """Different sets of a size, as far as there are any; none is the first of the ranking."""
    return [ranking[i : i + size] for i in range(1, min(count, len(ranking) - size) + 1)]


def _chunks(ranking: Ranking, budget: int) -> list[Sequence[NeuronSet]]:
    """Different sets, as many at a time as a search asks about."""
    pairs = [ranking[i : i + 2] for i in range(min(budget, len(ranking) - 1))]
    return [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]
