"""The benchmarks: their arithmetic, and that both sides of a comparison do the same work."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cases import LONGEST, Bench, ties
from benchmarks.channels import channels
from benchmarks.losses import losses
from benchmarks.memory import memory, peak
from benchmarks.peers import Hooks
from benchmarks.schedule import WAVES, Pool
from benchmarks.searching import searching
from benchmarks.timing import compare, row
from lesion import load
from lesion.ablation.units import Request
from lesion.core.neurons import NeuronSet
from lesion.data.samples import load_samples
from lesion.remedies.harden import harden
from lesion.remedies.split import Split
from tests.remedies.test_harden import PROMPT, critical


def test_a_row_holds_medians_and_the_ratio_that_its_goal_is_about():
    times = [(1.0, 4.0), (2.0, 5.0), (1.5, 9.0)]
    faster = row("a", "m", "p", times, ">= 3")
    assert (faster.ours, faster.peer, faster.spread, faster.turns) == (1.5, 5.0, (2.5, 6.0), 3)
    assert faster.ratio == pytest.approx(5 / 1.5) and faster.reached
    assert not row("a", "m", "p", times, ">= 4").reached
    dearer = row("a", "m", "p", [(1.2, 1.0)], "<= 1.1")
    assert dearer.ratio == pytest.approx(1.2) and not dearer.reached
    assert row("a", "m", "p", [(1.05, 1.0)], "<= 1.1").reached


def test_both_sides_take_turns():
    order: list[str] = []
    timed = compare("a", "m", "p", lambda: order.append("ours"), lambda: order.append("peer"), ">= 1", 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"] and timed.turns == 3


def test_both_searches_end_where_the_perplexity_is_tenfold():
    found = searching(Bench("tiny-llava", 2, 1), "down")
    k_star, linear = (int(text.split()[-1].replace(",", "")) for text in (found.name.split(" of ")[0], found.peer_name))
    assert 1 < linear <= k_star and found.ratio > 1


def test_peak_memory_is_that_of_one_side():
    bench = Bench("tiny-llava", 2, 1)
    assert 0 < peak(bench, "scoring", 1) < 2000
    assert memory(bench, "scoring", "bare", "<= 9").unit == "MiB"


def test_the_hook_loop_measures_the_same():
    bench = Bench("tiny-llava", 2, 1)
    ranking = bench.ranking("activation", "down")
    sets = [ranking.top(k) for k in (0, 1, 4)]
    loop = Hooks(bench.vlm, bench.prompts, bench.answers, LONGEST, 2)
    ours = bench.evaluator().many([Request(neurons) for neurons in sets])
    with bench.vlm.prepared():
        theirs = [loop.measure(neurons) for neurons in sets]
    assert ties(bench, sets, ours, theirs) <= 1
    assert ours[0].outcomes[0].answer != ours[2].outcomes[0].answer, "four neurons must harm, or this shows nothing"
    wrong = bench.evaluator().many([Request(NeuronSet())] * 3)
    with pytest.raises(AssertionError):
        ties(bench, sets, wrong, theirs)


def test_a_simulated_schedule_is_that_of_its_slowest_part():
    assert Pool(4).run(8, 1.0).seconds == 2.0 and Pool(4).run(9, 1.0).seconds == 3.0
    assert Pool(4).run(9, 1.0).busy == pytest.approx(9 / 12)
    driven = Pool(1000, handle=0.01).run(5000, 1.0)
    assert driven.seconds == pytest.approx(50, rel=0.05) and driven.driver > 0.95 and driven.busy < 0.15
    assert Pool(1, send=0.1, travel=0.2, handle=0.3).run(1, 1.0).seconds == pytest.approx(1.6)


def test_what_runs_at_a_steady_rate_need_not_be_simulated_task_by_task():
    pool, tasks = Pool(3, send=0.01, travel=0.02, handle=0.05), 3 * WAVES + 600
    assert pool.run(tasks, 1.0).seconds == pytest.approx(pool._run(pool._drawn(tasks, 1.0, 0)), rel=0.02)
    varied = Pool(3, spread=0.3)
    assert varied.run(tasks, 1.0).seconds == pytest.approx(varied._run(varied._drawn(tasks, 1.0, 1)), rel=0.05)
    assert varied.run(30, 1.0).busy < 1


def test_channels_are_masked_alone_and_at_random():
    """One at random is one of all, and is measured alike; there are no sets of all channels."""
    found = channels("tiny-llava", "scenes", 1, 2, [1, 192], 2, 4)
    assert len(found.alone) == 192 and {n: len(nlls) for n, nlls in found.together.items()} == {1: 2}
    assert set(found.together[1]) <= set(found.alone), "a random one is one of all"
    assert max(found.alone) >= found.intact and "one of 192:" in found.lines()[1]


def test_every_copy_is_lost_alone(tmp_path: Path):
    vlm = load("tiny-llava")
    harden(vlm, critical(vlm), tmp_path / "out", Split(2), load_samples("scenes", 1), PROMPT, 4)
    found = losses(str(tmp_path / "out"), 2, 4)
    assert (found["units"], found["standing"]) == (8, 8) and 0.5 < found["worst"] < 2
