"""``python -m benchmarks.null_models``: how often the measured search reports a set in a model that has learnt nothing.

Each model is tiny-llava's architecture with weights drawn anew from its own initialisation. What is counted is a report: a set
that was found on the samples of the search and that collapses the model on the others too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lesion.core.statistics import share_upper_bound
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.study.study import Study


def drawn(seed: int) -> VisionLanguageModel:
    """tiny-llava with random weights."""
    vlm = load("tiny-llava")
    torch.manual_seed(seed)
    model = type(vlm.model)(vlm.model.config).eval()
    return VisionLanguageModel(model, vlm.processor, f"random {seed}")


def main() -> None:
    """Searches in each model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.null_models", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--role", default="hidden")
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "null_models.json")
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        with TemporaryDirectory() as folder:
            result = Study(
                drawn(seed), out=Path(folder) / "run", role=options.role, samples=16, max_new_tokens=8, max_k=64, controls=0,
                search="measured", search_budget=options.budget, shortlist=64, minimal_limit=0,
            ).run()  # fmt: skip
        found = result.searched
        assert found is not None
        largest = max((step.rise or 0.0 for step in found.steps), default=0.0)
        rows.append({
            "seed": seed, "found": len(found.candidates), "reported": found.neurons is not None, "k_star": result.k_star,
            "largest_rise": largest, "perplexity": result.baseline["ppl_reference"],
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    reported = sum(row["reported"] for row in rows)
    bound = share_upper_bound(reported, len(rows))
    summary = {"models": len(rows), "role": options.role, "budget": options.budget, "reported": reported, "upper_95": bound}
    options.out.write_text(json.dumps({**summary, "rows": rows}, indent=1) + "\n")
    print(f"{reported} of {len(rows)} models: with 95 % confidence at most {100 * bound:.1f} % of such models")


if __name__ == "__main__":
    main()
