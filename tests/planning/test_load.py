"""How long tasks take, one after the other or on several replicas."""

from __future__ import annotations

from typing import Any

import pytest

from lesion.planning.costs import Costs, Line
from lesion.planning.load import Load, Part, load


def costs(**handling: float) -> Costs:
    lines: Any = {"read": Line(task=1.0, one=0.1), "write": Line(task=0.0, one=0.5)}
    return Costs(
        device="cpu", threads=1, passes=1, seconds=1.0, loading=1.0, tasks=lines, handling=handling, weights=1,  # pyright: ignore[reportArgumentType]
        scoring=1, answering=1, importance=1, ranking=1, line={},
    )  # fmt: skip


def test_a_line_goes_through_two_points():
    line = Line.through((4, 1.4), (16, 2.6))
    assert (line.task, line.one) == (pytest.approx(1.0), pytest.approx(0.1))
    assert Line.through((4, 2.0), (4, 2.0)) == Line(task=0.0, one=0.5), "one point: no more is known than a mean"
    assert Line.through((4, 3.0), (16, 2.0)) == Line(task=0.0, one=3.0 / 16), "the first was slow: noise is no slope"
    assert Line.through((4, 1.0), (16, 8.0)) == Line(task=0.0, one=0.5), "no task takes less than nothing"


def test_one_process_does_all_itself():
    assert load("read", 3, 24).seconds(costs(read=0.01), 0) == pytest.approx(3 * 1.0 + 24 * 0.1 + 24 * 0.01)


@pytest.mark.parametrize(("replicas", "waves"), [(1, 8), (2, 4), (3, 3), (8, 1), (1000, 1)])
def test_replicas_work_in_waves(replicas: int, waves: int):
    assert load("write", 8, 16).seconds(costs(), replicas) == pytest.approx(waves * 1.0)


def test_the_process_that_drives_may_be_the_slower():
    assert load("write", 1000, 1000).seconds(costs(write=0.01), 1000) == pytest.approx(10.0)


def test_a_long_task_is_not_shared():
    mixed = Load((Part("read", 10, 10), Part("write", 1, 100)))
    assert mixed.passes == 110
    assert mixed.seconds(costs(), 100) == pytest.approx(50.0)
