"""Stage 1, k* and their words on curves whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lesion.core.collapse import detect_collapse
from lesion.core.curve import Curve
from tests.synthetic import CHANCE, curve, point

LN10 = math.log(10)
KS = [0, 1, 2, 3, 4, 6, 8]


@pytest.mark.parametrize(
    ("name", "nll", "clip", "stage1", "k_star"),
    [
        ("step", [0.2, 0.2, 0.2, 4, 4, 4, 4], [80, 80, 80, 20, 20, 20, 20], 3, 3),
        ("ramp that ends short", [0.2, 0.5, 0.8, 1.1, 1.4, 1.7, 2.0], [80, 75, 70, 65, 60, 55, 50], 1, None),
        ("ramp, then cliff", [0.2, 0.2, 0.6, 1.0, 5, 6, 7], [80, 80, 70, 60, 20, 20, 20], 2, 4),
        ("flat", [0.2] * 7, [80] * 7, None, None),
        ("perplexity alone", [0.2, 0.2, 9, 9, 9, 9, 9], [80] * 7, 2, None),
        ("CLIP score alone", [0.2] * 7, [80, 80, 20, 20, 20, 20, 20], 2, None),
        ("not a number after 4", [0.2, 0.2, 0.2, 0.2, math.nan, math.nan, math.nan], [80, 80, 80, 80, 20, 20, 20], 4, 4),
        ("infinite after 4", [0.2, 0.2, 0.2, 0.2, math.inf, math.inf, math.inf], [80, 80, 80, 80, 20, 20, 20], 4, 4),
        ("falls, rises and falls", [0.2, 0.2, 9, 0.4, 9, 9, 9], [80, 80, 20, 80, 20, 20, 20], 2, 4),
        ("at the last k only", [0.2] * 6 + [9], [80] * 6 + [20], 8, 8),
        ("just below ten times", [0.2] * 3 + [0.2 + 0.99 * LN10] * 4, [80] * 3 + [20] * 4, 3, None),
        ("just above ten times", [0.2] * 3 + [0.2 + 1.01 * LN10] * 4, [80] * 3 + [20] * 4, 3, 3),
    ],
)  # fmt: skip
def test_known_curves(name, nll, clip, stage1, k_star):
    collapse = detect_collapse(curve(KS, nll, clip))
    assert (collapse.stage1_k, collapse.k_star) == (stage1, k_star), name
    assert collapse.monotone == (name != "falls, rises and falls")
    assert collapse.largest_k == 8 and collapse.samples == 8


def test_the_interval_holds_k_star_and_is_open_where_resamples_have_no_collapse():
    sure = detect_collapse(curve(KS, [0.2, 0.2, 0.2, 4, 4, 4, 4], [80, 80, 80, 20, 20, 20, 20]))
    assert sure.k_star_ci == (3, 3) and sure.interval() == "95 % interval over samples 3 to 3"
    # Seven of the eight samples collapse at 2, the other at 4: a third of the resamples are without that one.
    early, late = [0.2, 0.2, 6, 6, 6, 6, 6], [0.2, 0.2, 0.2, 0.2, 6, 6, 6]
    clips = {0.2: 80, 6: 20}
    points = [point(k, [e] * 7 + [x], [clips[e]] * 7 + [clips[x]]) for k, e, x in zip(KS, early, late, strict=True)]
    collapse = detect_collapse(Curve(points, [CHANCE] * 8))
    assert collapse.k_star == 4
    assert collapse.k_star_ci == (2, 4)
    flat = detect_collapse(curve(KS, [0.2] * 7, [80] * 7))
    assert flat.k_star_ci == (None, None) and flat.interval() == "no k*, hence no interval"


def test_the_bands_cover_the_truth_as_often_as_they_say():
    """Simulated curves whose true means are known; a percentile bootstrap of 16 samples is known to fall a little short."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        bands = Curve([point(0, rng.normal(2.0, 0.5, 16), rng.normal(60, 10, 16))], [CHANCE] * 16).bands()
        assert bands.clip is not None
        covered += [bands.nll[0, 0] <= 2.0 <= bands.nll[0, 1], bands.clip[0, 0] <= 60 <= bands.clip[0, 1]]
    assert 0.88 <= np.mean(covered) <= 0.97


def test_the_interval_of_k_star_covers_the_truth():
    """Each sample collapses at a k of its own; the true k* is where most of a large population has."""
    rng = np.random.default_rng(2)

    def simulated(samples):
        own = rng.choice(KS[2:6], size=samples, p=[0.1, 0.2, 0.4, 0.3])
        fallen = [[k >= o for o in own] for k in KS]
        nll, clip = np.where(fallen, 6.0, 0.2), np.where(fallen, 20.0, 80.0)
        return detect_collapse(Curve([point(*at) for at in zip(KS, nll, clip, strict=True)], [CHANCE] * samples))

    truth = simulated(4000).k_star
    assert truth is not None
    intervals = [simulated(16).k_star_ci for _ in range(60)]
    covered = [low is not None and low <= truth <= (high if high is not None else KS[-1]) for low, high in intervals]
    assert np.mean(covered) >= 0.9


def test_bands_without_clip_and_with_what_is_not_finite():
    points = [point(0, [0.2] * 4, [80] * 4), point(1, [0.2, 0.3, math.nan, 0.2], [80] * 4)]
    bands = Curve(points, [CHANCE] * 4).bands()
    assert bands.nll[0].tolist() == pytest.approx([0.2, 0.2]) and bands.nll[1, 1] == math.inf
    assert not np.isnan(bands.nll).any()


def test_noise_is_not_taken_for_stage_1():
    """Differences that scatter around zero are no degradation, and a shift larger than their scatter is one."""
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(40):
        base = rng.normal(0.5, 0.2, 16)
        noisy = base + rng.normal(0, 0.1, 16)
        alarms.append(detect_collapse(Curve([point(0, base, [80] * 16), point(1, noisy, [80] * 16)], [CHANCE] * 16)).stage1_k)
    assert sum(a is not None for a in alarms) <= 4
    base = rng.normal(0.5, 0.2, 16)
    points = [point(0, base, [80] * 16), point(1, base + rng.normal(0.2, 0.1, 16), [80] * 16)]
    assert detect_collapse(Curve(points, [CHANCE] * 16)).stage1_k == 1


def test_a_sure_but_tiny_change_is_not_stage_1():
    assert detect_collapse(curve([0, 1], [0.2, 0.205], [80, 80])).stage1_k is None
    assert detect_collapse(curve([0, 1], [0.2, 0.22], [80, 80])).stage1_k == 1
    # Of the CLIP score's 60 points above chance, 1 % is 0.6; the fall is the same in every sample, so any fall is sure.
    assert detect_collapse(curve([0, 1], [0.2, 0.2], [80, 79.7])).stage1_k is None
    assert detect_collapse(curve([0, 1], [0.2, 0.2], [80, 79.0])).stage1_k == 1


def test_without_clip_perplexity_decides():
    with_clip = curve(KS, [0.2, 0.2, 9, 9, 9, 9, 9], [80] * 7)
    assert detect_collapse(Curve(with_clip.points, None)).k_star == 2


def test_too_few_samples_are_no_interval_and_no_stage_1():
    for samples, words in ((1, "1 measured sample is too few"), (3, "3 measured samples are too few")):
        collapse = detect_collapse(curve(KS, [0.2, 0.2, 0.2, 4, 4, 4, 4], [80, 80, 80, 20, 20, 20, 20], samples))
        assert collapse.stage1_k is None and collapse.k_star_ci == (None, None)
        assert words in collapse.stage1() and "not tested" in collapse.stage1()
    assert collapse.k_star == 3 and "no interval: 3 measured samples" in collapse.interval()


def test_an_open_interval_is_told_in_words():
    # At the last k half of the samples have not collapsed: some resamples never do.
    half = [point(0, [0.2] * 8, [80] * 8), point(1, [9] * 8, [20] * 6 + [26.5] * 2), point(2, [9] * 8, [20] * 6 + [26.5] * 2)]
    collapse = detect_collapse(Curve(half, [CHANCE] * 8))
    assert collapse.k_star == 1 and collapse.k_star_ci == (1, None)
    assert collapse.interval() == "95 % interval from 1 up: some resamples of the samples do not collapse up to k = 2"
    flat = detect_collapse(curve(KS, [0.2] * 7, [80] * 7))
    assert flat.stage1() == "not seen" and "None" not in repr(collapse.interval()) + repr(collapse.stage1())


def test_not_monotone_is_for_falls_that_matter():
    """A tenth of a power of ten is 0.23 nats; the fall must be beyond noise as well."""
    clip = [80] * 4

    def monotone(*nll):
        return detect_collapse(curve([0, 1, 2, 3], nll, clip)).monotone

    assert monotone(0.2, 0.6, 0.5, 0.7), "a fall of a tenth of a nat is sure, and does not matter"
    assert not monotone(0.2, 0.9, 0.5, 0.7)
    noisy = [point(0, [0.2] * 8, [80] * 8), point(1, [0.2, 4.0] * 4, [80] * 8), point(2, [3.6, 0.2] * 4, [80] * 8)]
    assert detect_collapse(Curve(noisy, [CHANCE] * 8)).monotone, "a mean that falls by less than its noise"


def test_curves_are_checked():
    with pytest.raises(ValueError, match="k = 0"):
        Curve([point(1, [0.2], [80])])
    with pytest.raises(ValueError, match="same k"):
        Curve([point(0, [0.2], [80]), point(0, [0.2], [80])])
    with pytest.raises(ValueError, match="same samples"):
        Curve([point(0, [0.2], [80]), point(1, [0.2, 0.3], [80, 80])])
