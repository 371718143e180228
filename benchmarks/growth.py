"""``python -m benchmarks.growth``: what memory a process holds while a study makes thousands of evaluations."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lesion.core.neurons import Neuron, NeuronSet
from lesion.study.options import StudyOptions
from lesion.study.session import Session


def resident() -> float:
    """MiB of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def grow(evaluations: int, every: int, folder: Path) -> list[dict[str, float]]:
    """Measures random sets of four neurons, each with its answers, and says what memory is held along the way."""
    options = StudyOptions.parse(model="tiny-llava", role="gate", data="questions", samples=32, max_new_tokens=8, clip="none")
    rows, draw = [], np.random.default_rng(0)
    with Session.open(options, out=folder) as session:
        ablation, sites = session.ablation(), list(session.sites)
        while len(rows) * every < evaluations:
            sets = [
                NeuronSet(Neuron(s := sites[draw.integers(len(sites))], int(draw.integers(s.width))) for _ in range(4))
                for _ in range(every)
            ]
            ablation.many(sets)
            rows.append({"evaluations": every * (len(rows) + 1), "mib": round(resident(), 1)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """A line for every so many evaluations."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--evaluations", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        grow(options.evaluations, options.every, Path(folder) / "run")


if __name__ == "__main__":
    main()
