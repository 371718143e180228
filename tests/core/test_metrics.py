"""Metrics of answers; golden values by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion.core.metrics import Likelihood, mode_of, not_text, perplexity, pool, repeated_ngrams, token_agreement


def test_likelihood_and_perplexity():
    assert perplexity(Likelihood.of([math.log(2), math.log(8)])) == pytest.approx(4.0)
    assert Likelihood.of([1.0, math.nan]) == Likelihood(None, 2)
    assert Likelihood.of([1.0, math.inf]) == Likelihood(None, 2)
    assert perplexity(Likelihood(None, 2)) is None
    assert perplexity(Likelihood(5000.0, 2)) is None, "an overflow is no number, and its NLL still is"


def test_pooling_weighs_by_tokens():
    assert pool([Likelihood(1.0, 1), Likelihood(4.0, 2)]) == Likelihood(3.0, 3)
    assert pool([Likelihood(1.0, 1), Likelihood(None, 2)]) == Likelihood(None, 3)


@pytest.mark.parametrize(
    ("ids", "share"), [([], 0), ([1, 2], 0), ([1, 2, 3, 4], 0), ([7] * 5, 2 / 3), ([1, 2, 3, 1, 2, 3], 1 / 4)]
)
def test_repeated_ngrams(ids, share):
    assert repeated_ngrams(ids) == pytest.approx(share)


def test_token_agreement():
    assert token_agreement([1, 2, 3], [1, 2, 3]) == 1
    assert token_agreement([1, 9, 3, 4], [1, 2, 3]) == 0.5
    assert token_agreement([], [1]) == 0 and token_agreement([], []) == 1


def test_not_text():
    assert not_text("a red car", 3, 0) == 0
    assert not_text("a \ufffd\ufffd car\n", 4, 0) == 0.5
    assert not_text("a", 4, 3) == 0.75
    assert not_text("", 0, 0) == 0


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_shares_are_shares(one, two):
    assert 0 <= repeated_ngrams(one) < 1
    assert 0 <= token_agreement(one, two) <= 1
    assert token_agreement(one, two) == token_agreement(two, one)


GOOD, BAD = Likelihood(0.2, 10), Likelihood(4.0, 10)


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, "degraded"),
        ({"text": "  "}, "empty"),
        ({"exact": True}, "intact"),
        ({"repeated": 0.9, "generated_intact": BAD}, "repetition"),
        ({"generated_intact": BAD}, "gibberish"),
        ({"generated_intact": Likelihood(None, 10)}, "gibberish"),
        ({"strange": 0.5}, "gibberish"),
        ({"clip": 21.0}, "off-topic"),
        ({"clip": 27.0}, "degraded"),
        ({"clip": None}, "degraded"),
    ],
)
def test_modes(given, mode):
    """Chance 20 and intact 80: a tenth of the distance is 6, so up to 26 is off-topic."""
    usual = {
        "text": "a blue car", "exact": False, "repeated": 0.0, "strange": 0.0, "generated_intact": GOOD, "baseline": GOOD,
        "clip": 60.0, "chance": 20.0, "intact_clip": 80.0,
    }  # fmt: skip
    assert mode_of(**{**usual, **given}) == mode
