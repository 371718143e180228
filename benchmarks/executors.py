"""``python -m benchmarks.executors``: how much faster two replicas of one thread are than one, on the same study.

Both are actors of Ray on this machine, so that what is compared is one replica with two; the time is that of the study without
starting Ray and loading models. Run it on two cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lesion.execution.ray import RayExecutor
from lesion.study.study import Study

OPTIONS: dict[str, Any] = {
    "model": "tiny-llava", "samples": 256, "controls": 20, "max_new_tokens": 16, "clip": "none", "threads": "1",
}  # fmt: skip


class Timed(RayExecutor):
    """Notes when its replicas are there, and when they are no longer needed."""

    seconds = 0.0

    @contextmanager
    def opened(self, spec: bytes, folder: Path) -> Iterator[None]:
        with super().opened(spec, folder):
            self._ray.get(list(self._starting))
            start = time.perf_counter()
            yield
            self.seconds = time.perf_counter() - start


def measure(replicas: int) -> float:
    """Seconds of the study."""
    executor = Timed(replicas, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        Study(out=Path(folder) / "run", executor=executor, **OPTIONS).run()
    return executor.seconds


def main() -> None:
    """Prints the seconds of each turn, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executors", description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="one replica and two, by turns")
    for turn in range(parser.parse_args().turns):
        one, two = measure(1), measure(2)
        print(f"turn {turn + 1}: one replica {one:.1f} s, two {two:.1f} s, {one / two:.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()
