"""Two ways to do the same, timed by turns."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: What is done.
        model: On which model.
        peer_name: By what it is done otherwise.
        ours: Median of lesion.
        peer: Median of the other.
        ratio: ``peer / ours`` where the goal is to be faster, ``ours / peer`` where it is to cost hardly more.
        goal: The ratio to reach, such as ``>= 3`` or ``<= 1.1``.
        reached: Whether it is.
        spread: Lowest and highest ratio of single turns.
        turns: How many.
        machine: Where.
        ties: Answers that differ since two tokens are equally likely but for rounding.
        unit: Of ``ours`` and ``peer``: seconds, or MiB.
    """

    name: str
    model: str
    peer_name: str
    ours: float
    peer: float
    ratio: float
    goal: str
    reached: bool
    spread: tuple[float, float]
    turns: int
    machine: str
    ties: int = 0
    unit: str = "s"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def machine() -> str:
    """Processor, cores, threads and versions."""
    import torch
    import transformers

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} threads{gpu}, {versions}"


def compare(
    name: str, model: str, peer_name: str, ours: Callable[[], object], peer: Callable[[], object], goal: str, turns: int
) -> Row:
    """Times both by turns; each has run once before."""
    times: list[tuple[float, float]] = []
    for turn in range(turns):
        pair = (ours, peer) if turn % 2 == 0 else (peer, ours)  # neither always follows the other
        spent = tuple(seconds(run) for run in pair)
        times.append((spent[0], spent[1]) if turn % 2 == 0 else (spent[1], spent[0]))
    return row(name, model, peer_name, times, goal)


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes, on a GPU until it is idle."""
    import torch

    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def row(name: str, model: str, peer_name: str, times: list[tuple[float, float]], goal: str) -> Row:
    """From what ours and the peer took, a pair a turn."""
    sign, _, bound = goal.partition(" ")
    faster = sign == ">="
    ratios = [peer / ours if faster else ours / peer for ours, peer in times]
    ours, peer = (statistics.median(of) for of in zip(*times, strict=True))
    ratio = peer / ours if faster else ours / peer
    reached = ratio >= float(bound) if faster else ratio <= float(bound)
    return Row(
        name, model, peer_name, ours, peer, ratio, goal, reached, (min(ratios), max(ratios)), len(times), machine()
    )
