"""``python -m benchmarks.scaling``: the schedule of a study simulated up to 1,000 replicas and 10 million images.

Pass times are measured here, on one thread, by a calibration as ``lesion plan`` makes it; handing a task to an actor of Ray is
measured too. Then studies with 1, 2 and 4 local replicas are run, and held against the simulation; four share two cores, so
that their passes are taken to be twice as long. At last it is said where a larger study is limited, if its passes took so long.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from benchmarks.executors import Timed
from benchmarks.schedule import Pool
from lesion.core.outcome import Likelihood, SampleOutcome
from lesion.models.loading import load
from lesion.planning.calibrate import calibrate
from lesion.planning.costs import Costs
from lesion.planning.load import Load, Part
from lesion.planning.workload import Workload, workload_of
from lesion.study.options import StudyOptions
from lesion.study.session import Session
from lesion.study.study import Study

OPTIONS: dict[str, Any] = {
    "model": "tiny-llava", "samples": 128, "controls": 10, "max_new_tokens": 16, "clip": "none", "threads": "1",
}  # fmt: skip
CORES = 2
REPLICAS, IMAGES = (1, 8, 64, 1000), (1_000, 100_000, 10_000_000)
PASSES = {"as here": 1.0, "100 times as long": 100.0}
"""A larger model on a GPU: what a pass takes is not known here, only what follows if it took so long."""
CALLS = 500
"""To an actor, to see what one takes."""


class _Echo:
    """An actor that does nothing."""

    def do(self, task: bytes) -> bytes:
        return task


def overheads(size: int = 4000) -> tuple[float, float]:
    """Seconds to hand a task of so many bytes to an actor, and until its answer is back."""
    echo: Any = ray.remote(num_cpus=0)(_Echo).remote()
    task = bytes(size)
    ray.get(echo.do.remote(task))
    sending, back = [], []
    for _ in range(CALLS):
        start = time.perf_counter()
        reference = echo.do.remote(task)
        sent = time.perf_counter()
        ray.get(reference)
        sending.append(sent - start)
        back.append(time.perf_counter() - sent)
    ray.kill(echo)
    return statistics.median(sending), statistics.median(back)


def held(count: int = 2000) -> int:
    """Bytes of an outcome of one sample in memory."""
    tracemalloc.start()
    likelihood = [Likelihood(1.0 + i, 16) for i in range(4 * count)]
    kept = [
        SampleOutcome(
            id=f"sample-{i}", answer=f"a photograph of two cats on a couch, one of them asleep {i}",
            reference=likelihood[4 * i], generated=likelihood[4 * i + 1], generated_intact=likelihood[4 * i + 2],
            clip=60.0 + i, kl=0.1 + i, agreement=0.5 + i, exact=False, repeated=0.1 + i, not_text=0.0, mode="intact",
        )
        for i in range(count)
    ]  # fmt: skip
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size // len(kept)


def simulate(loads: Sequence[Load], costs: Costs, pool: Pool, slower: float = 1.0) -> tuple[float, float, float]:
    """Seconds of a study's loads one after the other, and the shares in which replicas and driver were at work."""
    whole = worked = served = 0.0
    for load_ in loads:
        for part in load_.parts:
            each = slower * costs.compute(part.kind, part.tasks, part.passes) / part.tasks
            handle = costs.handle(part.kind, part.passes) / part.tasks
            found = Pool(pool.replicas, pool.send, pool.travel, handle, pool.spread).run(part.tasks, each)
            whole += found.seconds
            worked += found.busy * found.seconds
            served += found.driver * found.seconds
    return whole, worked / whole, served / whole


def merged(load_: Load) -> Load:
    """Parts of one kind as one: they are worked on at the same time."""
    kinds: dict[Any, list[Part]] = {}
    for part in load_.parts:
        kinds.setdefault(part.kind, []).append(part)
    return Load(tuple(
        Part(kind, sum(p.tasks for p in parts), sum(p.passes for p in parts)) for kind, parts in kinds.items()
    ))  # fmt: skip


def loads_of(workload: Workload, k_star: int) -> list[Load]:
    """Everything that a study asks for."""
    return [merged(load_) for stage in workload.stages(k_star).values() for load_ in stage]


def check(costs: Costs, workloads: dict[int, Workload], send: float, travel: float) -> list[dict[str, Any]]:
    """Runs the study with 1, 2 and 4 replicas, and simulates each at the k* that it found."""
    rows = []
    for replicas, workload in workloads.items():
        executor = Timed(replicas, threads=1)
        with tempfile.TemporaryDirectory() as folder:
            k_star = Study(out=Path(folder) / "run", executor=executor, **OPTIONS).run().k_star
        assert k_star is not None
        slower = max(1.0, replicas / CORES)
        seconds, busy, _ = simulate(loads_of(workload, k_star), costs, Pool(replicas, send, travel), slower)
        rows.append({"replicas": replicas, "measured": executor.seconds, "simulated": seconds, "busy": busy})
        print(f"{replicas} replicas: {executor.seconds:.1f} s measured, {seconds:.1f} s simulated", flush=True)
    return rows


def main() -> None:
    """Prints both tables, and keeps them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file for the tables")
    out = parser.parse_args().out
    # As many as four replicas ask for, though there are two.
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    send, travel = overheads()
    options, start = StudyOptions.parse(**OPTIONS), time.perf_counter()
    vlm = load(options.model)
    loading = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder, Session.open(options, vlm, Path(folder) / "run") as session:
        costs, half = calibrate(session, loading), options.samples // 2
        print(f"calibrated by {costs.passes} passes in {costs.seconds:.0f} s; a task is sent in {1000 * send:.2f} ms, and "
              f"back {1000 * travel:.2f} ms later; an outcome takes {held():,} bytes of memory", flush=True)
        checked = check(
            costs, {n: workload_of(session, options, (options.samples, half, half), n) for n in (1, 2, 4)}, send, travel
        )
        rows = []
        for images in IMAGES:
            for replicas in REPLICAS:
                loads = loads_of(workload_of(session, options, (images, images // 2, images // 2), replicas), 4)
                lines = sum(costs.line.get(p.kind, 0) * p.passes for load_ in loads for p in load_.parts)
                for name, slower in PASSES.items():
                    seconds, busy, driver = simulate(loads, costs, Pool(replicas, send, travel, spread=0.2), slower)
                    rows.append({
                        "images": images, "replicas": replicas, "passes": name, "hours": seconds / 3600, "busy": busy,
                        "driver": driver, "file": lines, "memory": held() * images // 2,
                    })  # fmt: skip
                    print(
                        f"{images:>10,} images, {replicas:>5,} replicas, passes {name}: {seconds / 3600:,.2f} h, replicas busy "
                        f"{busy:.0%}, driver {driver:.0%}; evaluations.jsonl {lines / 2**30:,.2f} GiB, an evaluation in memory "
                        f"{rows[-1]['memory'] / 2**30:,.2f} GiB", flush=True,
                    )  # fmt: skip
    if out is not None:
        about = {"send": send, "travel": travel, "costs": costs.model_dump(), "outcome": held()}
        out.write_text(json.dumps({"about": about, "checked": checked, "simulated": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
