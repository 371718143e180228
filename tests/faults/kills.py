"""SIGKILL at a random moment of a study that runs in a process of its own."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.faults.victim import Whole, model, resumed, study


def kill(whole: Whole, folder: Path, count: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Kills as many studies, each twice, and goes on with each.

    Args:
        whole: What the study is without a fault.
        folder: For the run directories.
        count: So many studies are killed.
        seed: Of the moments, which are spread over the time that a study takes.

    Yields:
        What was done, and what was lost; None for nothing.
    """
    draw, start = random.Random(seed), time.monotonic()
    _in_a_child(folder / "timed", None)
    seconds = time.monotonic() - start
    for number in range(count):
        # One moment in each of as many equal parts, so that all stages are hit.
        moment = seconds * (number + draw.random()) / count
        run, ended = folder / f"killed-{number}", []
        for after in (moment, draw.random() * (seconds - moment)):
            ended.append(_in_a_child(run, after))
        yield f"killed after {moment:.2f} s, {ended[0]}; then {ended[1]}", resumed(run, whole)


def _in_a_child(run: Path, after: float | None) -> str:
    """A study in a child that is killed after so many seconds (None for never); how it ended."""
    model()
    # A child has none of its parent's threads; with one thread there are none to miss.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        child = os.fork()
        if not child:
            code = 1
            try:
                study(run).run()
                code = 0
            finally:
                os._exit(code)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        torch.set_num_threads(threads)
    if os.WIFSIGNALED(status):
        return "killed"
    assert os.WEXITSTATUS(status) == 0, "the study failed by itself"
    return "was done before"
