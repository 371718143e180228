"""How many threads compute: as many as there are cores that nothing else uses.

Threads wait for each other in every operation. One that shares its core with another process keeps all of them waiting, so
that a process with a thread more than there are free cores can take many times as long as with a thread less.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesion.core.errors import OptionError

_STAT = Path("/proc/stat")
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
MOST = 1024
"""Threads; the library that makes them ends the process where it cannot make so many."""
_LOOK = 0.25
"""Seconds for which other processes are looked at."""


def allowed() -> list[int]:
    """The cores that this process may run on: its affinity, cut to its control group's quota."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    quota = _quota()
    return cores if quota is None else cores[: max(1, int(quota))]


def _quota() -> float | None:
    """How many cores' time a control group gives; None for no limit."""
    try:
        if _QUOTAS[0].exists():
            quota, period = _QUOTAS[0].read_text().split()
        else:
            quota, period = (_QUOTAS[1].with_name(f"cpu.cfs_{of}_us").read_text() for of in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # no control groups, or "max"
        return None


def free() -> int:
    """How many of the allowed cores other processes leave idle; at least 1. All of them where the system does not tell."""
    cores = allowed()
    before = _times()
    if not before:
        return len(cores)
    time.sleep(_LOOK)
    after, idle = _times(), 0.0
    everywhere = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(before)
    for core in everywhere:
        if core in before and core in after:
            spent = sum(after[core]) - sum(before[core])
            idle += (sum(after[core][3:5]) - sum(before[core][3:5])) / spent if spent else 1.0
    return max(1, min(len(cores), round(idle)))


def _times() -> dict[int, list[int]]:
    """What each core has spent its time on, in ticks; the fourth and the fifth number are idle time."""
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines()]
    except OSError:
        return {}
    return {int(words[0][3:]): [int(n) for n in words[1:9]] for words in lines if words[0][:3] == "cpu" and words[0] != "cpu"}


def check(threads: str) -> None:
    """Whether it is ``auto`` or a number.

    Raises:
        OptionError: It is neither.
    """
    if threads != "auto" and (not threads.isdecimal() or len(threads) > 4 or not 1 <= int(threads) <= MOST):
        raise OptionError(f"threads is {threads[:20]!r}; expected a number from 1 to {MOST}, or auto")


def wait_briefly() -> None:
    """Has threads that wait for others give their core away soon: before torch is loaded, where nothing else is set."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


@contextmanager
def computing(threads: str) -> Iterator[None]:
    """Torch computes with so many threads while the context lasts.

    Args:
        threads: A number; or ``auto`` for what ``OMP_NUM_THREADS`` says, and :func:`free` where it is not set.
    """
    import torch

    before = torch.get_num_threads()
    if threads != "auto":
        torch.set_num_threads(int(threads))
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(free())
    try:
        yield
    finally:
        torch.set_num_threads(before)
