"""Every sentence of a verdict: it says no more than was measured."""

from __future__ import annotations

from typing import Any

import pytest

from lesion.core.collapse import Collapse
from lesion.core.statistics import share_upper_bound
from lesion.study.verdict import HANDFUL, LUCKY, Verdict


def collapse(k_star: int | None = 4, **changes: Any) -> Collapse:
    """Of 8 samples, all k up to 64 of which were tried."""
    fields: dict[str, Any] = {
        "stage1_k": 3, "k_star": k_star, "k_star_ci": (k_star, k_star), "largest_k": 64, "monotone": True,
        "collapsed": () if k_star is None else (k_star,), "undecided": (), "samples": 8, "samples_needed": None, "left_out": {},
    }  # fmt: skip
    return Collapse(**{**fields, **changes})


def verdict(k_star: int | None = 4, total: int = 2688, random: tuple[int, int] = (10, 0), **more: Any) -> Verdict:
    layers = more.pop("layers", [("language", 1)] * (k_star or 0))
    complaints, unsure = more.pop("complaints", []), more.pop("unsure", 0)
    return Verdict("toy", "language", "gate", total, collapse(k_star, **more), layers, random, complaints, unsure)


def test_a_critical_handful():
    found = verdict()
    assert found.is_handful and str(found) == (
        "Masking 4 of 2,688 language gate neurons, all in language layer 1, collapses toy: a critical handful. 10 of 10 random "
        "sets of that size leave it standing."
    )
    assert "in 2 layers" in str(verdict(layers=[("language", 1), ("language", 1), ("language", 3), ("language", 3)]))
    assert "1 of 2,688 language gate neurons, in language layer 1, collapses" in str(verdict(1))


def test_a_handful_is_a_number_and_a_share():
    half = verdict(8, 16)
    assert not half.is_handful and str(half) == (
        "No critical handful: toy stands until 8 of 16 language gate neurons (50 %) are masked. 10 of 10 random sets of that "
        "size leave it standing."
    )
    assert verdict(HANDFUL, 100 * HANDFUL).is_handful and not verdict(HANDFUL, 100 * HANDFUL - 1).is_handful
    assert not verdict(HANDFUL + 1, 100_000).is_handful
    assert "304 of 2,688 language gate neurons (11 %)" in str(verdict(304, random=(0, 0)))


def test_a_handful_needs_controls_that_stand():
    fallen = verdict(random=(10, 9))
    assert (
        not fallen.is_handful
        and fallen.luck == "falls too"
        and str(fallen).endswith(
            "collapses toy; but 9 of 10 random sets of that size do so too, so these are no critical handful."
        )
    )
    untried = verdict(random=(0, 0))
    assert not untried.is_handful and str(untried).endswith(
        "collapses toy. Whether others would do the same is open: random sets of that size were not tried."
    )
    few = verdict(random=(4, 0))
    assert not few.is_handful and few.luck == "not tested" and "were tried 4 times only, which is too few to tell" in str(few)
    assert all("a critical handful" not in str(v) for v in (untried, few))


@pytest.mark.parametrize("drawn", range(1, 12))
@pytest.mark.parametrize("fallen", range(4))
def test_controls_stand_where_their_interval_says_so(drawn: int, fallen: int):
    """With 95 % confidence fewer than half of all such sets collapse the model: 5 that stand, or 8 of which one falls."""
    if fallen <= drawn:
        stands = verdict(random=(drawn, fallen)).luck == "stands"
        assert stands == (share_upper_bound(fallen, drawn) <= LUCKY)
        assert stands == (drawn >= {0: 5, 1: 8, 2: 11}.get(fallen, 99))


def test_an_undecided_control_does_not_stand():
    unsure = verdict(unsure=3)
    assert not unsure.is_handful and str(unsure).endswith(
        "is open: random sets of that size were tried 10 times, and of 3 of them the samples do not tell."
    )
    mostly = verdict(random=(20, 0), unsure=3)
    assert mostly.is_handful and "17 of 20 random sets of that size leave it standing" in str(mostly)


def test_none_up_to_what_was_tried():
    assert str(verdict(None, largest_k=3)) == (
        "No collapse up to k = 3 of 2,688 language gate neurons in toy; larger sets were not tried."
    )
    assert str(verdict(None, 64)) == "No collapse: toy still stands with all 64 language gate neurons masked."
    back = verdict(None, collapsed=(8,))
    assert str(back) == "No lasting collapse up to k = 64 of 2,688 language gate neurons: toy recovers at a larger k."
    assert not any(v.is_handful for v in (verdict(None), back))


def test_undecided_says_how_many_samples_would_decide():
    unsure = verdict(None, undecided=(6, 8), samples_needed=1234)
    assert str(unsure) == (
        "Undecided: 8 measured samples do not tell whether masking 6 of 2,688 language gate neurons collapses toy; about 1,234 "
        "would."
    )
    assert str(verdict(None, undecided=(6,))).endswith("collapses toy.")


def test_one_sample_is_an_example_and_not_evidence():
    assert str(verdict(None, samples=1, undecided=(1,))).startswith("Undecided: 1 measured sample does not tell whether")
    for samples, words in ((1, "1 sample"), (2, "2 samples"), (3, "3 samples")):
        assert str(verdict(samples=samples)).endswith(f"Measured on {words}: an example, not evidence.")
    assert "evidence" not in str(verdict(samples=4))


def test_a_model_that_does_not_work_is_said_first():
    broken = verdict(complaints=["it gives the same answer to all 8 samples", "something else"])
    assert not broken.is_handful and "a critical handful" not in str(broken)
    assert str(broken).startswith(
        "toy does not work on this data even intact: it gives the same answer to all 8 samples; something else. Masking 4 of"
    )


def test_all_is_no_part_of_a_name():
    assert Verdict("toy", "all", "all", 100, collapse(None)).what == "100 neurons"
    assert Verdict("toy", "vision", "all", 100, collapse(None)).what == "100 vision neurons"
    assert Verdict("toy", "all", "down", 100, collapse(None)).what == "100 down neurons"
