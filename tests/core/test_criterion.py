"""Criteria: what counts as collapsed, and what the samples are too few to tell; by simulation and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lesion.core.collapse import detect_collapse
from lesion.core.criterion import (
    CRITERIA,
    Baseline,
    CollapseCriterion,
    Condition,
    decide,
    get_criterion,
    register_criterion,
)
from lesion.core.curve import Curve
from lesion.core.errors import OptionError
from lesion.core.evaluation import Evaluation
from lesion.core.outcome import Likelihood, Mode, SampleOutcome
from tests.synthetic import CHANCE

PAPER, PERPLEXITY, DEGENERATION, TASK = (CRITERIA[name] for name in ("paper", "perplexity", "degeneration", "task"))
LOW, HIGH = 0.2, 0.2 + math.log(20)
"""Mean negative log-likelihood of the intact model, and twenty times that perplexity."""


def outcome(i: int, nll: float, clip: float | None, mode: Mode = "degraded", correct: bool | None = None) -> SampleOutcome:
    value = Likelihood(nll if math.isfinite(nll) else None, 10)
    answer = "" if mode == "empty" else "text"
    return SampleOutcome(f"s{i}", answer, value, value, value, clip, 0.0, 1.0, False, 0.0, 0.0, mode, correct)


def evaluation(k: int, nll: float, clips: Sequence[float | None], **more: Any) -> Evaluation:
    return Evaluation(k, tuple(outcome(i, nll, clip, **more) for i, clip in enumerate(clips)))


def baseline(clips: Sequence[float | None], **more: Any) -> Baseline:
    return Baseline(evaluation(0, LOW, clips, **more), np.full(len(clips), CHANCE))


def answering(k: int, right: Sequence[bool | None]) -> Evaluation:
    """Answers to yes/no questions."""
    return Evaluation(k, tuple(outcome(i, LOW, None, "intact", correct) for i, correct in enumerate(right)))


# -- too few samples are no collapse ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("samples", [2, 4, 8])
def test_few_samples_that_scatter_are_hardly_ever_called_a_collapse(samples: int):
    """Intact 80, chance 20, masked 55 on average with a standard deviation of 35: more than half of the distance is left.

    A rule by which a score that is *not surely above* chance counts as being there declares a collapse in 43 % of these draws
    with 2 samples.
    """
    rng = np.random.default_rng(samples)
    intact = baseline([80.0] * samples)
    decisions = [decide(PAPER, intact, evaluation(1, HIGH, rng.normal(55, 35, samples).tolist())) for _ in range(1000)]
    assert decisions.count("collapsed") <= 50
    assert decisions.count("undecided") > 0, "what the samples do not tell is said as that"


@pytest.mark.parametrize(("samples", "spread"), [(2, 0.5), (4, 2.0), (8, 4.0), (16, 6.0)])
def test_a_clear_collapse_is_declared(samples: int, spread: float):
    rng = np.random.default_rng(samples)
    intact = baseline([80.0] * samples)
    decisions = [decide(PAPER, intact, evaluation(1, HIGH, rng.normal(20, spread, samples).tolist())) for _ in range(200)]
    assert decisions.count("collapsed") >= 190


def test_the_bounds_decide_collapsed_standing_and_undecided():
    """A tenth of the distance of 60 is 6: the margin lies at 26. With 4 samples, one-sided 95 % is 2.353 standard errors."""
    intact, half_width = baseline([80.0] * 4), float(2.353 * np.std([-1, -1, 1, 1], ddof=1) / 2)
    for mean, decision in (
        (26 - half_width - 0.01, "collapsed"), (26 - half_width + 0.01, "undecided"), (26 + half_width - 0.01, "undecided"),
        (26 + half_width + 0.01, "standing"),
    ):  # fmt: skip
        assert decide(PAPER, intact, evaluation(1, HIGH, [mean - 1, mean - 1, mean + 1, mean + 1])) == decision, mean
        assert decide(PAPER, intact, evaluation(1, LOW, [mean - 1, mean - 1, mean + 1, mean + 1])) == "standing", mean


def test_one_sample_never_decides():
    assert decide(PAPER, baseline([80.0]), evaluation(1, 9.0, [0.0])) == "undecided"


def test_undecided_says_how_many_samples_would_decide():
    """And so many of the same mean and spread do."""
    clips, intact = [8.0, 38.0, 10.0, 32.0], baseline([80.0] * 4)
    collapse = detect_collapse(Curve([intact.intact, evaluation(1, HIGH, clips)], intact.chance))
    assert collapse.undecided == (1,) and collapse.k_star is None and collapse.samples_needed is not None
    mean, spread = np.mean(clips), np.std(clips, ddof=1)
    for more, decision in ((0, "collapsed"), (-1, "undecided")):
        count = collapse.samples_needed + more
        values = np.resize([-1.0, 1.0], count)
        values = (values - values.mean()) / values.std(ddof=1) * spread + mean
        assert decide(PAPER, baseline([80.0] * count), evaluation(1, HIGH, values.tolist())) == decision


def test_undecided_ends_no_curve_and_is_no_collapse():
    """k* is where the samples decide: an undecided k neither collapses the model nor brings it back."""
    unsure = [8.0, 38.0, 10.0, 32.0]
    intact = baseline([80.0] * 4)
    points = [evaluation(1, HIGH, unsure), evaluation(2, HIGH, [20.0] * 4), evaluation(3, HIGH, unsure)]
    collapse = detect_collapse(Curve([intact.intact, *points], intact.chance))
    assert (collapse.k_star, collapse.collapsed, collapse.undecided) == (2, (2,), (1, 3)) and collapse.monotone


# -- what tells nothing is left out ----------------------------------------------------------------------------------------
def test_an_intact_score_at_chance_decides_nothing():
    at_chance = baseline([20.5, 19.0, 21.0, 19.8])
    assert PAPER.left_out(at_chance) == {"clip_score": "at chance"}
    assert decide(PAPER, at_chance, evaluation(1, HIGH, [20.0] * 4)) == "collapsed", "judged by the perplexity alone"
    assert decide(PAPER, at_chance, evaluation(1, LOW, [0.0] * 4)) == "standing"
    assert detect_collapse(Curve([at_chance.intact, evaluation(1, HIGH, [20.0] * 4)], at_chance.chance)).left_out == {
        "clip_score": "at chance"
    }


def test_a_score_that_was_not_measured_is_said_to_be_not_measured():
    without = Baseline(evaluation(0, LOW, [None] * 4), None)
    assert PAPER.left_out(without) == {"clip_score": "not measured"}
    assert decide(PAPER, without, evaluation(1, HIGH, [None] * 4)) == "collapsed"
    assert TASK.left_out(without) == {"accuracy": "not measured"}
    assert decide(TASK, without, evaluation(1, HIGH, [None] * 4)) == "undecided", "nothing is left to judge by"


def test_an_intact_score_that_is_not_surely_above_chance_leaves_it_undecided():
    """Two samples: 80 and 30 are above chance on average, and as few as that could be there by luck."""
    unsure = baseline([80.0, 30.0])
    assert PAPER.left_out(unsure) == {}
    assert decide(PAPER, unsure, evaluation(1, HIGH, [20.0, 20.0])) == "undecided"
    assert decide(PAPER, unsure, evaluation(1, LOW, [20.0, 20.0])) == "standing", "the perplexity alone says so"


# -- the other criteria ----------------------------------------------------------------------------------------------------
def test_perplexity():
    intact = baseline([80.0] * 4)
    assert decide(PERPLEXITY, intact, evaluation(1, LOW + math.log(9.9), [80.0] * 4)) == "standing"
    assert decide(PERPLEXITY, intact, evaluation(1, LOW + math.log(10.1), [80.0] * 4)) == "collapsed"
    assert decide(PERPLEXITY, intact, evaluation(1, math.inf, [80.0] * 4)) == "collapsed"
    broken = Baseline(evaluation(0, math.inf, [80.0] * 4), intact.chance)
    assert decide(PERPLEXITY, broken, evaluation(1, math.inf, [80.0] * 4)) == "standing", "nothing has risen"


def test_degeneration_counts_collapsed_modes():
    intact = baseline([80.0] * 4, mode="intact")
    modes: tuple[Mode, ...] = ("gibberish", "degraded")

    def masked(collapsed: int) -> Evaluation:
        order = (*modes[:1] * collapsed, *modes[1:] * (4 - collapsed))
        return Evaluation(1, tuple(outcome(i, LOW, 80.0, mode) for i, mode in enumerate(order)))

    assert [decide(DEGENERATION, intact, masked(n)) for n in (0, 1, 2, 4)] == ["standing", "standing", "collapsed", "collapsed"]


def test_task_holds_the_accuracy_against_a_coin():
    """Of an intact accuracy of 100 %, a tenth of the distance from a coin is 5 points: the margin lies at 55 %."""
    intact = Baseline(answering(0, [True] * 32), None)
    assert decide(TASK, intact, answering(1, [True] * 31 + [False])) == "standing"
    assert decide(TASK, intact, answering(1, [False] * 32)) == "collapsed"
    coin = answering(1, [True, False] * 16)
    assert decide(TASK, intact, coin) == "undecided", "32 answers cannot tell 50 % from 60 %"
    needed = TASK.samples_needed(intact, coin)
    assert needed is not None and 250 < needed < 300
    many = Baseline(answering(0, [True] * 2 * needed), None)
    assert decide(TASK, many, answering(1, [True, False] * needed)) == "collapsed"
    guessing = Baseline(answering(0, [True, False] * 16), None)
    assert TASK.left_out(guessing) == {"accuracy": "at chance"}


def test_any_is_enough_where_the_rule_says_so():
    both = [Condition(metric="ppl_reference", test="decades", limit=1), Condition(metric="empty", test="at-least", limit=0.5)]
    intact, every = baseline([80.0] * 4), CollapseCriterion(name="all", conditions=tuple(both))
    some = every.model_copy(update={"rule": "any", "name": "any"})
    for nll, mode, needs_all, needs_any in (
        (LOW, "intact", "standing", "standing"), (HIGH, "intact", "standing", "collapsed"),
        (LOW, "empty", "standing", "collapsed"), (HIGH, "empty", "collapsed", "collapsed"),
    ):  # fmt: skip
        masked = evaluation(1, nll, [80.0] * 4, mode=mode)
        assert (decide(every, intact, masked), decide(some, intact, masked)) == (needs_all, needs_any)
    assert " and " in str(every) and " or " in str(some)


@pytest.mark.parametrize("criterion", [PAPER, PERPLEXITY, DEGENERATION, TASK])
@pytest.mark.parametrize("rule", ["all", "any"])
@pytest.mark.parametrize("nll", [LOW, HIGH])
@pytest.mark.parametrize("clips", [[80.0] * 4, [20.0] * 4, [8.0, 38.0, 10.0, 32.0]])
def test_what_is_decided_early_is_what_is_decided(criterion: CollapseCriterion, rule: str, nll: float, clips: list[float]):
    criterion = criterion.model_copy(update={"rule": rule})
    intact = baseline([80.0] * 4, correct=True)
    masked = evaluation(1, nll, clips, correct=False)
    early = criterion.decide_early(intact, [o.reference for o in masked.outcomes])
    assert early in (None, decide(criterion, intact, masked))
    risen = nll == HIGH
    if criterion.name == "paper":
        assert (early is None) == (risen == (rule == "all"))
    else:
        assert (early is None) == (criterion.name != "perplexity")


def test_every_criterion_says_in_words_what_it_holds_against_what():
    assert str(PAPER) == (
        "perplexity of the intact answers at least 10 times the intact model's and CLIP score at chance (at most 10 % of its "
        "distance from chance left)"
    )
    assert str(DEGENERATION) == "collapsed answers at least 50 %"
    assert all(criterion.about for criterion in CRITERIA.values())


# -- of one's own ----------------------------------------------------------------------------------------------------------
def test_a_function_is_a_criterion():
    @register_criterion("silence", "every answer is empty")
    def silence(intact: Evaluation, masked: Evaluation) -> bool | None:
        if len(masked.outcomes) < 3:
            return None
        return all(not o.answer for o in masked.outcomes)

    intact, criterion = baseline([80.0] * 4), get_criterion("silence")
    assert str(criterion) == "every answer is empty" and criterion.left_out(intact) == {}
    assert decide(criterion, intact, evaluation(1, LOW, [80.0] * 4)) == "standing"
    assert decide(criterion, intact, evaluation(1, LOW, [80.0] * 4, mode="empty")) == "collapsed"
    assert decide(criterion, baseline([80.0] * 2), evaluation(1, LOW, [80.0] * 2, mode="empty")) == "undecided"
    points = [intact.intact, evaluation(1, LOW, [80.0] * 4), evaluation(2, LOW, [80.0] * 4, mode="empty")]
    collapse = detect_collapse(Curve(points, intact.chance), criterion=criterion)
    assert (collapse.k_star, collapse.k_star_ci) == (2, (2, 2))
    assert criterion.model_dump()["function"].endswith("silence")
    with pytest.raises(ValueError, match="'silence' is registered already"):
        register_criterion("silence")(silence)


def test_a_function_is_resampled_with_its_samples():
    """Of 8 samples 3 are empty; a resample has 3 or more of them about half of the time."""

    def third(intact: Evaluation, masked: Evaluation) -> bool:
        assert len(intact.outcomes) == len(masked.outcomes) == 8
        return sum(not o.answer for o in masked.outcomes) >= 3

    register_criterion("third")(third)
    intact = baseline([80.0] * 8)
    modes: tuple[Mode, ...] = ("empty", "empty", "empty", "intact", "intact", "intact", "intact", "intact")
    masked = Evaluation(1, tuple(outcome(i, LOW, 80.0, mode) for i, mode in enumerate(modes)))
    draws = np.random.default_rng(0).integers(8, size=(2000, 8))
    decisions = get_criterion("third").decide_in(intact, masked, draws)
    assert decisions.shape == (2000,) and 0.4 < decisions.mean() < 0.8


def test_what_no_criterion_can_be_made_from_is_refused():
    with pytest.raises(OptionError, match=r"'best' is unknown; available: paper, perplexity, degeneration, task"):
        get_criterion("best")
    with pytest.raises(OptionError, match=r"'x' needs the metric 'speed'; available: ppl_reference"):
        get_criterion(CollapseCriterion(name="x", conditions=(Condition(metric="speed", test="at-least", limit=1),)))
    with pytest.raises(OptionError, match=r"'x' counts powers of ten of 'kl'; expected a perplexity"):
        get_criterion(CollapseCriterion(name="x", conditions=(Condition(metric="kl", test="decades", limit=1),)))
    with pytest.raises(OptionError, match=r"'x' tests 'ppl_reference' at-least, which is pooled over tokens"):
        get_criterion(CollapseCriterion(name="x", conditions=(Condition(metric="ppl_reference", test="at-least", limit=9),)))
    with pytest.raises(ValueError, match="at least 1 item"):
        CollapseCriterion(name="x", conditions=())
