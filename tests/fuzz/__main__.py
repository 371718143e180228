"""Fuzzes every reader for long: ``python -m tests.fuzz --executions 1000000``.

Prints how many files each reader was given and how it failed, and saves the first files of each kind of failure.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from tests.fuzz.limits import Failure, bounded
from tests.fuzz.mutations import mutate
from tests.fuzz.readers import READERS, corpus

KEPT = 3
"""So many files of each kind of failure are saved."""
EVERY = 60.0
"""Seconds between two lines on how far it is."""


def fuzz(name: str, executions: int, seed: int, out: Path) -> Counter[str]:
    """Has one reader read so many damaged files; kind of failure -> how many of them."""
    reader, rng, seeds = READERS[name], random.Random(f"{name} {seed}"), corpus(name)
    failed, start = Counter[str](), time.monotonic()
    said = start
    for done in range(executions):
        failure = reader.attempt(mutate(reader.kind, rng.choice(seeds), seeds, rng))
        if failure is not None:
            failed[failure.kind] += 1
            if failed[failure.kind] <= KEPT:
                _save(name, failure, out)
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"  {name}: {done + 1:,} of {executions:,}, {(done + 1) / (said - start):,.0f} a second", flush=True)
    seconds = time.monotonic() - start
    print(f"{name}: {executions:,} executions in {seconds:,.0f} s, {sum(failed.values()):,} failures", flush=True)
    for kind, count in failed.most_common():
        print(f"  {count:,} x {kind}", flush=True)
    return failed


def _save(name: str, failure: Failure, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}-{hashlib.sha256(failure.data).hexdigest()[:12]}"
    file.write_bytes(failure.data)
    print(f"  {file}: {failure.what[:500]!r}", flush=True)


def main() -> int:
    """Returns the exit code: 1 where a reader failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--executions", type=int, default=100_000, help="files in all, shared out among the readers")
    parser.add_argument("--reader", choices=sorted(READERS), action="append", help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other files")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="folder for files that a reader failed on")
    parser.add_argument("--replay", type=Path, help="give this file to the one --reader, and say what it does")
    given = parser.parse_args()
    names = given.reader or list(READERS)
    warnings.simplefilter("ignore")
    logging.disable()
    if given.replay is not None:
        failure = READERS[names[0]].attempt(given.replay.read_bytes())
        print("no failure" if failure is None else failure.what)
        return failure is not None
    whole = sum(READERS[name].share for name in names)
    total = failures = 0
    with bounded():
        for name in names:
            executions = round(given.executions * READERS[name].share / whole)
            failures += sum(fuzz(name, executions, given.seed, given.out).values())
            total += executions
    print(f"in all: {total:,} executions, {failures:,} failures")
    return failures > 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
