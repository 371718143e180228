"""Peak memory of both sides of a comparison: each in a process of its own, above the model that it has loaded (Linux)."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import Bench, Sides, captum_sides, scoring_sides
from benchmarks.timing import Row, row
from lesion.models.inputs import Answer

SIDES: dict[str, Callable[[Bench], Sides]] = {"scoring": scoring_sides, "captum": captum_sides}


def memory(bench: Bench, name: str, peer: str, goal: str) -> Row:
    """Peaks of lesion and of the peer of a comparison in :data:`SIDES`."""
    times = [(peak(bench, name, 0), peak(bench, name, 1)) for _ in range(bench.turns)]
    return replace(row(f"peak memory, {name}, {bench.count} samples", bench.name, peer, times, goal), unit="MiB")


def growth(bench: Bench, again: int) -> Row:
    """Peaks of scoring the same samples again and again, and once."""
    times = [(peak(bench, "scoring", 0, again), peak(bench, "scoring", 0)) for _ in range(bench.turns)]
    name = f"peak memory, scoring {again * bench.count} samples"
    return replace(row(name, bench.name, f"lesion, {bench.count} samples", times, "<= 1.1"), unit="MiB")


def peak(bench: Bench, name: str, side: int, again: int = 1) -> float:
    """MiB of one side, in a process that makes no answers itself; every sample so many times."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answers.json"
        file.write_text(json.dumps([list(answer.ids) for answer in bench.answers]))
        what = (bench.name, bench.count, name, side, again, file)
        asked = [sys.executable, "-m", "benchmarks.memory", *map(str, what)]
        return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()[-1])


def _status(field: str) -> float:
    """MiB, from ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def main() -> None:
    """Prints how many MiB one side takes at most."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "count", "name", "side", "again", "answers"):
        parser.add_argument(name)
    asked = parser.parse_args()
    bench = Bench(asked.model, int(asked.count), 1)
    # Not made here: generating takes memory too.
    answers = [Answer(tuple(ids), "") for ids in json.loads(Path(asked.answers).read_text())]
    bench.__dict__ |= {"answers": answers * int(asked.again), "prompts": bench.prompts * int(asked.again)}
    for parameter in bench.vlm.model.parameters():
        parameter.sum()  # a mapped file is in memory once it was read
    before = _status("VmRSS")
    SIDES[asked.name](bench)[int(asked.side)]()
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    main()
