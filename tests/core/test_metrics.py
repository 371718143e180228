"""Metrics of answers; golden values by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion.core.metrics import METRICS, Metric, headline, register_metric, summarise
from lesion.core.modes import COLOURS, MEANINGS, mode_of, not_text, repeated_ngrams, token_agreement, yes_or_no
from lesion.core.outcome import MODES, Likelihood, Mode, SampleOutcome, perplexity, pool


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


GOOD, LESS, BAD = Likelihood(0.2, 10), Likelihood(1.2, 10), Likelihood(4.0, 10)
"""The intact model's own answer, one of e times its perplexity, and one of 45 times."""


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({}, "degraded"),
        ({"text": "  "}, "empty"),
        ({"exact": True}, "intact"),
        ({"exact": True, "clip": 21.0, "repeated": 0.9}, "intact"),
        ({"repeated": 0.9, "generated_intact": BAD}, "repetition"),
        ({"generated_intact": BAD}, "gibberish"),
        ({"generated_intact": Likelihood(None, 10)}, "gibberish"),
        ({"strange": 0.5}, "gibberish"),
        ({"clip": 26.0}, "off-topic"),
        ({"clip": 27.0}, "degraded"),
        # A paraphrase: at most twice as perplexing as the intact answer, and at most a tenth of the distance lost.
        ({"clip": 73.0}, "degraded"),
        ({"clip": 74.0}, "intact"),
        ({"clip": 90.0}, "intact"),
        ({"clip": 90.0, "generated_intact": Likelihood(0.2 + math.log(1.9), 10)}, "intact"),
        ({"clip": 90.0, "generated_intact": Likelihood(0.2 + math.log(2.1), 10)}, "degraded"),
        ({"clip": None}, "intact"),
        ({"clip": None, "generated_intact": LESS}, "degraded"),
        # An intact answer that scores at chance says nothing of others: the likelihood decides.
        ({"clip": 5.0, "intact_clip": 15.0}, "intact"),
        ({"clip": 5.0, "intact_clip": 15.0, "generated_intact": LESS}, "degraded"),
    ],
)
def test_modes(changes, mode):
    """Chance 20 and intact 80: a tenth of the distance is 6, so up to 26 is off-topic, and from 74 on nothing is lost."""
    usual = {
        "text": "a blue car", "exact": False, "repeated": 0.0, "strange": 0.0, "generated_intact": GOOD, "baseline": GOOD,
        "clip": 60.0, "chance": 20.0, "intact_clip": 80.0,
    }  # fmt: skip
    assert mode_of(**{**usual, **changes}) == mode


def test_every_mode_has_a_colour_of_its_own_and_a_meaning():
    assert set(COLOURS) == set(MEANINGS) == set(MODES)
    assert len(set(COLOURS.values())) == len(MODES)


@pytest.mark.parametrize(
    ("text", "value"),
    [("Yes", True), ("no.", False), (" yes, it is", True), ("maybe", None), ("", None), (None, None), ("not yes", None)],
)
def test_yes_or_no(text, value):
    assert yes_or_no(text) is value


# -- the table -------------------------------------------------------------------------------------------------------------
def outcome(nll: float | None, tokens: int, clip: float | None, mode: Mode, correct: bool | None = None) -> SampleOutcome:
    value = Likelihood(nll, tokens)
    return SampleOutcome("s", "a car", value, value, value, clip, 0.5, 0.25, mode == "intact", 0.1, 0.2, mode, correct)


def test_every_metric_by_hand():
    measured = summarise([outcome(1.0, 1, 30.0, "intact", True), outcome(4.0, 2, 50.0, "empty", False)])
    assert set(measured) == set(METRICS)
    assert measured["nll_reference"] == 3.0 and measured["ppl_reference"] == pytest.approx(math.exp(3.0)), "pooled over tokens"
    expected = {
        "clip_score": 40.0, "kl": 0.5, "exact_match": 0.5, "token_agreement": 0.25, "repeated_ngrams": 0.1, "not_text": 0.2,
        "empty": 0.5, "collapsed_modes": 0.5, "accuracy": 0.5,
    }  # fmt: skip
    assert {name: measured[name] for name in expected} == pytest.approx(expected)


def test_what_one_sample_lacks_the_metric_lacks():
    measured = summarise([outcome(1.0, 1, 30.0, "intact", True), outcome(None, 2, None, "intact")])
    assert [measured[name] for name in ("ppl_reference", "nll_reference", "clip_score", "accuracy")] == [None] * 4


def test_a_value_is_written_as_its_metric_says():
    ppl, clip, share = METRICS["ppl_reference"], METRICS["clip_score"], METRICS["exact_match"]
    assert [ppl.show(v) for v in (1.23456, 12345.6, 2.5e7, None, math.inf)] == [
        "1.235", "1.235e+04", "2.5e+07", "not finite", "not finite",
    ]  # fmt: skip
    assert [clip.show(v) for v in (79.96, 0.0, None)] == ["80.0", "0.0", "not measured"]
    assert [share.show(v) for v in (0.125, 1.0, None)] == ["12 %", "100 %", "not measured"]
    assert clip.show(None, "–") == "–"


def test_the_short_table_leaves_out_what_was_not_measured():
    """A CLIP score that is missing was not measured; a perplexity that is missing is not finite, and worth a line."""
    measured = summarise([outcome(None, 2, None, "intact")])
    names = [metric.name for metric in headline(measured)]
    assert "clip_score" not in names and "ppl_reference" in names
    assert "clip_score" in [metric.name for metric in headline(summarise([outcome(1.0, 1, 30.0, "intact")]))]


def test_a_metric_of_ones_own_is_measured_like_the_others():
    try:

        @register_metric("words", "Words an answer", better="higher")
        def words(outcome: SampleOutcome) -> float:
            return len(outcome.answer.split())

        assert summarise([outcome(1.0, 1, 30.0, "intact")])["words"] == 2.0
        assert METRICS["words"] == Metric("words", "Words an answer", words, "higher")
        with pytest.raises(ValueError, match="'words' is registered already"):
            register_metric("words", "again", better="lower")(words)
    finally:
        METRICS.pop("words", None)
