"""Threads: as many as cores are free, by hand-written accounts of what the cores did."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lesion.core.errors import OptionError
from lesion.models import threads


def account(*cores: tuple[int, int]) -> str:
    """A system's account of its cores: ticks of work and of idle time each."""
    lines = ["cpu  1 2 3 4 5 6 7 8 0 0", *(f"cpu{i} {busy} 0 0 {idle} 0 0 0 0 0 0" for i, (busy, idle) in enumerate(cores))]
    return "\n".join([*lines, "intr 1 2 3", "ctxt 4"]) + "\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of four cores, of which some time passes while it is looked at."""

    def made(before, after, cores=range(4), quota=None):
        stat, quotas = tmp_path / "stat", (tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us")
        stat.write_text(account(*before))
        if quota is not None:
            quotas[0].write_text(quota)
        monkeypatch.setattr(threads, "_STAT", stat)
        monkeypatch.setattr(threads, "_QUOTAS", quotas)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(cores), raising=False)
        monkeypatch.setattr("time.sleep", lambda seconds: stat.write_text(account(*after)))

    return made


START = [(100, 900)] * 4


@pytest.mark.parametrize(
    ("after", "cores", "quota", "expected"),
    [
        ([(100, 925)] * 4, range(4), None, 4),  # nothing else runs
        ([(125, 900), (100, 925), (100, 925), (100, 925)], range(4), None, 3),  # one busy process
        ([(125, 900)] * 4, range(4), None, 1),  # all are busy
        ([(112, 913)] * 4, range(4), None, 2),  # two busy processes that wander
        ([(125, 900), (125, 900), (100, 925), (100, 925)], [0, 1], None, 1),  # those that it may use are busy
        ([(125, 900), (125, 900), (100, 925), (100, 925)], [2, 3], None, 2),  # those that it may not
        ([(100, 925)] * 4, range(4), "200000 100000\n", 2),  # a control group gives two cores' time
        ([(100, 925)] * 4, range(4), "max 100000\n", 4),
        ([(100, 925)] * 4, range(4), "50000 100000\n", 1),
    ],
)
def test_as_many_as_cores_are_free(machine, after, cores, quota, expected):
    machine(START, after, cores, quota)
    assert threads.free() == expected


def test_a_system_that_does_not_tell_gives_all_of_them(machine, monkeypatch, tmp_path):
    machine(START, START)
    monkeypatch.setattr(threads, "_STAT", tmp_path / "none")
    assert threads.free() == 4


def test_an_older_control_group(machine, tmp_path):
    machine(START, [(100, 925)] * 4)
    Path(tmp_path / "cpu.cfs_quota_us").write_text("300000")
    Path(tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert threads.free() == 3


def test_threads_are_set_and_set_back(machine, monkeypatch):
    before = torch.get_num_threads()
    with threads.computing("1"):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    machine(START, [(125, 900), (125, 900), (125, 900), (100, 925)])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(ZeroDivisionError), threads.computing("auto"):
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    with threads.computing("auto"):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", ""])
def test_what_is_no_number_of_threads(wrong):
    with pytest.raises(OptionError, match=f"threads is '{wrong}'; expected a number from 1 to 1024, or auto"):
        threads.check(wrong)


def test_waiting_is_cut_short_where_nobody_chose(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    threads.wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
