"""``python -m benchmarks.channels MODEL ...``: a layer's ``down`` channels masked alone, and random ones of them.

How likely a model finds its own answers to the embedded prompts or scenes, with output channels of one layer of its language
model masked. Random sets are drawn by a fixed seed, so they are the same for models of one width.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lesion.core.neurons import NeuronSet
from lesion.core.outcome import pool
from lesion.core.sites import Site
from lesion.study.options import StudyOptions
from lesion.study.session import Session

COLLAPSED = math.log(10)
"""Rise of the mean NLL, in nats, at which the criterion ``perplexity`` has a model collapsed."""


@dataclass(frozen=True)
class Channels:
    """What masks of a layer's output channels do to a model; NLL in nats, infinite where it is not finite.

    Attributes:
        model: The name that it was loaded by.
        layer: The layer.
        samples: How many it was asked.
        intact: Mean NLL of the intact answers.
        alone: The same with each channel masked, by its number.
        together: Number of channels -> the same with each of the random sets masked.
    """

    model: str
    layer: int
    samples: int
    intact: float
    alone: list[float]
    together: dict[int, list[float]]

    def lines(self) -> list[str]:
        """For people."""
        worst = int(np.argmax(self.alone))
        harmful = sum(nll - self.intact >= 0.1 for nll in self.alone)
        fallen = sum(nll - self.intact >= COLLAPSED for nll in self.alone)
        return [
            f"{self.model}, layer {self.layer}, {self.samples} samples: intact {self.intact:.3f}",
            f"  one of {len(self.alone)}: {harmful} raise it by 0.1 or more, {fallen} collapse it; median "
            f"{statistics.median(self.alone):.3f}, largest {self.alone[worst]:.3f} (channel {worst})",
            *(
                f"  {count} at random, {len(nlls)} sets: median {statistics.median(nlls):.3f}, {min(nlls):.3f} to "
                f"{max(nlls):.3f}; {sum(nll - self.intact >= COLLAPSED for nll in nlls)} collapse it"
                for count, nlls in self.together.items()
            ),
        ]


def channels(model: str, data: str, layer: int, samples: int, counts: Sequence[int], sets: int, tokens: int) -> Channels:
    """Measures a model.

    Args:
        model: A name or a folder.
        data: The samples; ``scenes`` are prompts for a model that reads text alone.
        layer: Of the language model.
        samples: How many.
        counts: Sizes of random sets.
        sets: How many of each size.
        tokens: Longest answer.
    """
    options = StudyOptions.parse(
        model=model, data=data, role="down", layers=str(layer), samples=samples, max_new_tokens=tokens, clip="none"
    )
    with TemporaryDirectory() as folder, Session.open(options, out=Path(folder) / "run", ranks=False, judges=False) as session:
        (site,) = session.sites
        ablation, draw = session.ablation(), np.random.default_rng(0)

        def nlls(members: Sequence[Sequence[int]]) -> list[float]:
            masked = [NeuronSet.from_arrays({site: np.array(m, dtype=np.int64)} if len(m) else {}) for m in members]
            found = [pool(reading).nll for reading in ablation.readings(masked)]
            return [math.inf if nll is None else nll for nll in found]

        (intact,) = nlls([[]])
        alone = nlls([[i] for i in range(site.width)])
        together = {n: nlls([_drawn(draw, site, n) for _ in range(sets)]) for n in counts if n < site.width}
        return Channels(model, layer, len(session.measured), intact, alone, together)


def _drawn(draw: np.random.Generator, site: Site, count: int) -> list[int]:
    return draw.choice(site.width, count, replace=False).tolist()


def main() -> None:
    """Measures models one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.channels", description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--counts", type=int, nargs="*", default=[8, 16, 32, 64])
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    asked = parser.parse_args()
    rows = []
    for model in asked.models:
        rows.append(channels(model, asked.data, asked.layer, asked.samples, asked.counts, asked.sets, asked.max_new_tokens))
        print("\n".join(rows[-1].lines()), flush=True)
        if asked.out:
            asked.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
