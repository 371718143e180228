"""``python -m benchmarks.smallest``: the smallest collapsing set that each way of looking finds with as many sets measured.

All look on the same samples, those that are ranked on, and are told the same; the sets that they end with are then asked
about on the samples that are measured on, the smallest first, as a study does (:mod:`lesion.study.measured_search`). What one
way has measured is not measured again for the next, so that only the first, lesion's own, says how long it took.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.rivals import genetic, greedy, prefix
from lesion.ablation.harm import Harm, harms
from lesion.ablation.measure import Ablation
from lesion.ablation.smallest import smallest
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.study.importances import importances as score_all
from lesion.study.importances import study_scorers
from lesion.study.measured_search import PART, spread
from lesion.study.options import StudyOptions
from lesion.study.session import Session
from lesion.study.shortlist import shortlist
from lesion.study.steepest_chain import COST, steepest_chain

SUBJECTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("tiny-llava", "hidden", {}),
    ("tiny-instructblip", "gate", {}),
    ("tiny-instructblip", "down", {}),
    ("smollm2", "hidden", {"samples": 8, "max_new_tokens": 24}),
    ("smollm2", "down", {"samples": 8, "max_new_tokens": 24}),
    ("smol-llava", "hidden", {"samples": 8, "max_new_tokens": 24}),
)
PREFIXES = ("can", "activation", "taylor", "integrated-gradients", "random")


@dataclass
class Watched:
    """Answers a search's questions until the budget is spent, and keeps what collapsed the model."""

    seeking: Ablation
    budget: int
    fallen: dict[NeuronSet, Harm] = field(default_factory=dict)
    spent: int = 0
    at: int | None = None

    def run(self, search: Any) -> None:
        """Asks and tells, to the end of the search or of the budget."""
        try:
            sets = next(search)
            while True:
                part = sets[: self.budget - self.spent]
                found = harms(self.seeking, part)
                for neurons, harm in zip(part, found, strict=True):
                    self.spent += 1
                    least = min(map(len, self.fallen), default=sys.maxsize)
                    if harm.collapsed:
                        self.fallen[neurons] = harm
                        self.at = self.spent if len(neurons) < least else self.at
                if len(part) < len(sets):
                    return
                sets = search.send(found)
        except StopIteration:
            return

    @property
    def sets(self) -> list[NeuronSet]:
        """Of each size the most harmful that collapses the model."""
        sizes = sorted({len(s) for s in self.fallen})
        return [max((s for s in self.fallen if len(s) == n), key=lambda s: self.fallen[s].rise) for n in sizes]


def compare(model: str, role: str, budget: int, options: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row for each way of looking."""
    asked = StudyOptions.parse(model=model, role=role, split="half", **options)
    rows: list[dict[str, Any]] = []
    with Session.open(asked, out=folder) as session:
        names = tuple(dict.fromkeys((*study_scorers(asked), "integrated-gradients")))
        scored = score_all(session, session.ranked, names, asked.scoring())
        scored |= score_all(session, session.ranked, ["random"], asked.scoring(), "random.safetensors")
        seeking, judging = session.ablation(session.ranked), session.ablation()
        rankings = {name: Ranking(scored[name], session.sites) for name in PREFIXES}
        orders = {name: [r[i] for i in range(len(r))] for name, r in rankings.items()}
        harms(seeking, [NeuronSet()])
        start = time.perf_counter()
        part = budget // PART
        chain = steepest_chain(session, seeking, part)
        own = {name: scored[name] for name in study_scorers(asked)}
        listed = shortlist(session, rankings["can"], own, asked.shortlist, chain.neurons, part // COST)
        spent = chain.cost + COST * listed.passes
        before = time.perf_counter() - start
        ways: dict[str, tuple[Any, int]] = {
            "measured": (smallest(listed.neurons, listed.groups, budget - spent, listed.chains), spent),
            **{f"prefix of {name}": (prefix(order), 0) for name, order in orders.items()},
            "greedy": (greedy(listed.neurons), 0),
            "genetic": (genetic(listed.neurons, 0), 0),
        }
        for way, (search, cost) in ways.items():
            start = time.perf_counter()
            watched = Watched(seeking, budget - cost)
            watched.run(search)
            seconds = round(time.perf_counter() - start + before, 1) if way == "measured" else None
            held = next((s for s in spread(watched.sets) if judging.collapses([s])[0]), None)
            rows.append({
                "model": model, "role": role, "neurons": session.sites.neurons, "way": way, "budget": budget,
                "smallest": len(watched.sets[0]) if watched.sets else None, "at": watched.at and watched.at + cost,
                "holds": None if held is None else len(held), "spent": watched.spent + cost, "seconds": seconds,
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Compares on every subject, or on those of a model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smallest", description=__doc__)
    parser.add_argument("--model", action="append")
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "smallest.json")
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for model, role, extra in SUBJECTS:
        if options.model and model not in options.model:
            continue
        with TemporaryDirectory() as folder:
            new = compare(model, role, options.budget, extra, Path(folder) / "run")
        rows = [r for r in rows if (r["model"], r["role"]) != (model, role)] + new
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
