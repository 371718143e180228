"""``python -m tests.faults``: injects every fault, and counts what was survived and what was lost."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults import broken, kills
from tests.faults.victim import Whole


def main() -> int:
    """A line a fault, then a table; exit code 1 where anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--step", type=int, default=1, help="inject at every so manieth operation and pass")
    parser.add_argument("--sizes", type=int, default=20, help="of full disks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        whole = Whole.made(folder / "whole")
        print(f"a study makes {whole.evaluations} evaluations", flush=True)
        parts: dict[str, Iterator[tuple[str, str | None]]] = {
            "SIGKILL, twice each": kills.kill(whole, folder, options.kills, options.seed),
            "a write, flush or rename fails": broken.fail_each(whole, folder, options.step),
            "not enough memory": broken.run_out_of_memory(whole, folder, options.step),
            "a full disk": broken.fill(whole, folder, options.sizes),
        }
        rows = [(part, *_counted(part, faults)) for part, faults in parts.items()]
    print("| fault | injected | survived | lost |\n|---|---|---|---|")
    for part, injected, lost in rows:
        print(f"| {part} | {injected:,} | {injected - lost:,} | {lost:,} |")
    return int(any(lost for *_, lost in rows))


def _counted(part: str, faults: Iterator[tuple[str, str | None]]) -> tuple[int, int]:
    injected = lost = 0
    try:
        for what, wrong in faults:
            injected, lost = injected + 1, lost + (wrong is not None)
            print(f"{part}: {what}: {wrong or 'nothing lost'}", flush=True)
    except PermissionError as error:
        print(f"{part}: skipped, {error}", flush=True)
    return injected, lost


if __name__ == "__main__":
    raise SystemExit(main())
