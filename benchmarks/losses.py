"""``python -m benchmarks.losses FOLDER``: each unit that the split ones of a hardened model became, lost alone.

The folder is one that ``lesion harden --split`` wrote. Its ``copies.json`` names the units; each is masked by itself, and the
perplexity of the intact answers is held against that with nothing masked.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lesion.core.neurons import NeuronSet
from lesion.core.outcome import pool
from lesion.remedies.split import COPIES
from lesion.study.options import StudyOptions
from lesion.study.session import Session


def losses(folder: str, samples: int, max_new_tokens: int, data: str = "scenes") -> dict[str, Any]:
    """How many units there are, how many are lost without a collapse, and what the worst loss does to the perplexity."""
    options = StudyOptions.parse(
        model=folder, data=data, samples=samples, max_new_tokens=max_new_tokens, clip="none", criterion="perplexity"
    )
    with TemporaryDirectory() as out, Session.open(options, out=Path(out) / "run", ranks=False, judges=False) as session:
        units = NeuronSet.load(Path(folder) / COPIES).fit(session.vlm.sites)
        ablation, sets = session.ablation(), [NeuronSet([unit]) for unit in units]
        decisions = ablation.decisions(sets)
        intact = pool([o.reference for o in ablation.baseline.intact.outcomes]).nll or 0.0
        found = [pool(reading).nll for reading in ablation.readings(sets)]
    worst = max(math.inf if nll is None else math.exp(nll - intact) for nll in found)
    return {"units": len(sets), "standing": decisions.count("standing"), "worst": worst, "samples": samples}


def main() -> None:
    """One line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.losses", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    options = parser.parse_args()
    print(json.dumps(losses(options.folder, options.samples, options.max_new_tokens, options.data)))


if __name__ == "__main__":
    main()
