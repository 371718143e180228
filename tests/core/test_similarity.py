"""Likeness of sets and rankings, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lesion.core.errors import OptionError
from lesion.core.importance import Importance
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.similarity import jaccard, overlap, rank_correlation
from lesion.core.sites import Site, Sites

SITES = Sites([Site("a", "language", "gate", 0, 3), Site("b", "language", "gate", 1, 2)])


def ranking(*scores, sites=SITES):
    parts = np.split(np.array(scores, dtype=float), np.cumsum([s.width for s in sites])[:-1])
    return Ranking(Importance("can", {}, sites, {s.key: p for s, p in zip(sites, parts, strict=True)}, samples=1), sites)


def test_jaccard():
    one, two = (NeuronSet(Neuron(SITES[0], i) for i in indices) for indices in ((0, 1), (1, 2)))
    assert jaccard(one, two) == pytest.approx(1 / 3)
    assert jaccard(one, one) == 1.0 and jaccard(NeuronSet(), NeuronSet()) == 1.0 and jaccard(one, NeuronSet()) == 0.0


def test_overlap():
    one, two = ranking(5, 4, 3, 2, 1), ranking(5, 1, 4, 2, 3)
    assert [overlap(one, two, k) for k in (1, 2, 3, 5)] == [1.0, 0.5, pytest.approx(2 / 3), 1.0]
    with pytest.raises(OptionError, match="k is 0"):
        overlap(one, two, 0)
    with pytest.raises(OptionError, match="k is 6"):
        overlap(one, two, 6)


def test_rank_correlation_by_hand():
    """1 - 6 sum d^2 / (n (n^2 - 1)) where no two scores are equal."""
    one, two = ranking(1, 2, 3, 4, 5), ranking(2, 1, 4, 3, 5)
    assert rank_correlation(one, two) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert rank_correlation(one, ranking(10, 200, 3e3, 4e4, 5e5)) == pytest.approx(1.0)
    assert rank_correlation(one, ranking(5, 4, 3, 2, 1)) == pytest.approx(-1.0)


def test_equal_scores_are_no_agreement():
    # ranks 1, 1, 1, 3, 4 and 4, 1, 1, 1, 3: the order by index, which is the same in both, must not count
    expected = np.corrcoef([1, 1, 1, 3, 4], [4, 1, 1, 1, 3])[0, 1]
    assert rank_correlation(ranking(0, 0, 0, 1, 2), ranking(2, 0, 0, 0, 1)) == pytest.approx(expected)
    assert rank_correlation(ranking(0, 0, 0, 0, 0), ranking(1, 2, 3, 4, 5)) is None


def test_rankings_of_other_sites_are_refused():
    other = Sites([SITES[0]])
    with pytest.raises(OptionError, match="2 and 1 different sites"):
        rank_correlation(ranking(1, 2, 3, 4, 5), ranking(1, 2, 3, sites=other))
