"""``python -m benchmarks [--suite cpu|quick]``: runs the cases, prints a table, writes ``benchmarks/results.json``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Row

HERE = Path(__file__).parent
SUITES = ("cpu", "quick")


def cases(suite: str, turns: int) -> Iterator[Row]:
    """The rows of a suite; packages that are not installed are said and left out."""
    from benchmarks.cases import Bench, captum, curve, one_mask, scoring, singles
    from benchmarks.peers import Hooks, Nnsight

    name = "tiny-llava" if suite == "quick" else "smollm2"
    bench = Bench(name, 16, turns)
    yield scoring(Bench(name, 8, turns))
    yield one_mask(Bench(name, 8, turns))
    if there("captum"):
        yield captum(Bench(name, 4, turns))
    for scorer in ("activation", "can"):
        yield curve(bench, scorer, "down", Hooks, ">= 3")
    if there("nnsight") and bench.vlm.structure.vision is None:
        yield curve(bench, "activation", "down", Nnsight, ">= 4")
    count = len(bench.vlm.engine.layers)
    few = Bench(name, 4, turns)
    yield singles(few, range(0, count, max(1, count // 10)), 16, ">= 3", "every third layer" if count > 10 else "every layer")
    yield singles(few, range(count - count // 3, count, max(1, count // 10)), 16, ">= 6", "the upper third's layers")


def there(package: str) -> bool:
    """Whether a peer is installed."""
    if importlib.util.find_spec(package) is None:
        print(f"{package} is not installed: its rows are left out (pip install 'lesion[bench]')", file=sys.stderr)
        return False
    return True


def line(row: Row) -> str:
    """One row of the table."""
    low, high = row.spread
    reached = "yes" if row.reached else "no"
    return (
        f"| {row.name} | {row.model} | {row.peer_name} | {row.ours:.2f} | {row.peer:.2f} | {row.ratio:.2f} | "
        f"{low:.2f} to {high:.2f} | {row.goal} | {reached} |"
    )


def main() -> None:
    """Runs a suite."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", choices=SUITES, default="cpu")
    parser.add_argument("--turns", type=int, default=5, help="how often each side is timed")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    print("| what | model | peer | lesion, s | peer, s | ratio | of single turns | goal | reached |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for row in cases(options.suite, options.turns):
        rows.append(row.as_dict())
        print(line(row), flush=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
