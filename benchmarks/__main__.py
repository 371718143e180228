"""``python -m benchmarks``: runs the cases of a suite, prints a table and writes ``benchmarks/results.json``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from benchmarks.timing import Row

HERE = Path(__file__).parent
SUITES = ("cpu", "quick")


def cases(suite: str, turns: int, layers: list[int] | None = None) -> dict[str, Callable[[], Row]]:
    """What a suite compares, by name.

    Args:
        suite: One of :data:`SUITES`.
        turns: How often each side is timed.
        layers: For single neurons; default: every third, and of the upper third every third.
    """
    from benchmarks.cases import Bench, captum, curve, one_mask, scoring, singles
    from benchmarks.memory import growth, memory
    from benchmarks.peers import Hooks, Nnsight
    from benchmarks.searching import searching

    name = "tiny-llava" if suite == "quick" else "smollm2"

    @cache
    def bench(count: int) -> Bench:
        return Bench(name, count, turns)

    def some(upper: bool) -> Row:
        count = len(bench(4).vlm.engine.layers)
        chosen = layers or list(range(count - count // 3 if upper else 0, count, max(1, count // 10)))
        about = f"layers {', '.join(map(str, chosen))}"
        return singles(bench(4), chosen, 16, ">= 6" if upper else ">= 3", about)

    return {
        "scoring": lambda: scoring(bench(8)),
        "mask": lambda: one_mask(bench(8)),
        "captum": lambda: captum(bench(4)),
        "curve-activation": lambda: curve(bench(16), "activation", "down", Hooks, ">= 3"),
        "curve-can": lambda: curve(bench(16), "can", "down", Hooks, ">= 3"),
        "nnsight": lambda: curve(bench(16), "activation", "down", Nnsight, ">= 4"),
        "memory": lambda: memory(bench(8), "scoring", "bare forward and backward", "<= 1.1"),
        "memory-growth": lambda: growth(bench(8), 8),
        "memory-captum": lambda: memory(bench(8), "captum", "captum", "<= 0.5"),
        "search": lambda: searching(bench(4), "down"),
        "singles": lambda: some(upper=False),
        "singles-upper": lambda: some(upper=True),
    }


def there(name: str) -> bool:
    """Whether the package is installed after which a case is named, if it is named after one."""
    name = name.rpartition("-")[2]
    if name not in ("captum", "nnsight") or importlib.util.find_spec(name) is not None:
        return True
    print(f"{name} is not installed: its row is left out (pip install 'lesion[bench]')", file=sys.stderr)
    return False


def line(row: Row) -> str:
    """One row of the table."""
    low, high = row.spread
    reached = "yes" if row.reached else "no"
    return (
        f"| {row.name} | {row.model} | {row.peer_name} | {row.ours:.4g} {row.unit} | {row.peer:.4g} {row.unit} | "
        f"{row.ratio:.2f} | {low:.2f} to {high:.2f} | {row.goal} | {reached} |"
    )


def main() -> None:
    """Runs a suite."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", choices=SUITES, default="cpu")
    parser.add_argument("--turns", type=int, default=5, help="how often each side is timed")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"again for more: {', '.join(cases('cpu', 1))}")
    parser.add_argument("--layers", help="of single neurons, such as 3,15")
    options = parser.parse_args()
    layers = [int(layer) for layer in options.layers.split(",")] if options.layers else None
    found = cases(options.suite, options.turns, layers)
    chosen = options.only or [name for name in found if there(name)]
    if unknown := set(chosen) - set(found):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(found)}")
    print("| what | model | peer | lesion | peer | ratio | of single turns | goal | reached |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in chosen:
        row = found[name]()
        print(line(row), flush=True)
        keep(row, options.out)


def keep(row: Row, file: Path) -> None:
    """Writes a row beside those of earlier runs, in place of one that compares the same."""
    rows = json.loads(file.read_text()) if file.exists() else []
    kept = [old for old in rows if (old["name"], old["model"], old["peer_name"]) != (row.name, row.model, row.peer_name)]
    file.write_text(json.dumps([*kept, row.as_dict()], indent=1) + "\n")


if __name__ == "__main__":
    main()
