"""Planting in the tiny families, for the tests; ``python -m tests.planting`` prints the tables of docs/adding-a-family.md."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from lesion.core.errors import ModelError
from lesion.core.importance import Importance
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import COMPONENTS, Sites
from lesion.hooks.intervene import mask
from lesion.models.feedforward import columns
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.score import score
from lesion.testing import plant, recall
from tests.families.__main__ import BUILDERS
from tests.models.test_families import built, prompts_of

EXPERTS = ("mixtral", "qwen3_vl_moe")
FAMILIES = [family for family in BUILDERS if family not in EXPERTS]
NORMED = ("gemma3",)
"""Families with a norm between the out-projection and the residual stream, which undoes a part of the planting."""
PLANTED, DRAWS = 3, 3
SCORERS = ("can", "wanda", "taylor", "gradient", "activation")
LARGER = ("llama", "llava", "gpt2", "qwen2_vl", "phi3", "mistral")
"""Families in which it is measured what merely larger neurons do."""
EVERY = (*SCORERS, "superweight", "perturbation")


def fresh(family: str) -> VisionLanguageModel:
    """A model of one's own, which may be edited."""
    made = built(family)
    return VisionLanguageModel(copy.deepcopy(made.model).requires_grad_(False), made.processor, family)


class Asked:
    """A model's own answers to two prompts, and what they tell of its neurons."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm, self.prompts = vlm, prompts_of(vlm)
        self.answers = vlm.generate(vlm.embed(self.prompts), 6)
        self.intact = self._log_probs()

    def scores(self, sites: Sites, scorers: Sequence[str] = SCORERS) -> dict[str, Importance]:
        return score(self.vlm.model, sites, self.vlm.batches(self.prompts, self.answers, 2), scorers)

    def _log_probs(self) -> torch.Tensor:
        """``[answer tokens of both, vocabulary]``."""
        return torch.cat(self.vlm.answer_log_probs(self.vlm.embed(self.prompts), self.answers))

    def masked(self, neurons: NeuronSet) -> tuple[float, float]:
        """What masking does: KL to the intact model, and the rise of the loss of its answers, in nats a token."""
        with mask(self.vlm.model, neurons):
            now = self._log_probs()
        said = torch.tensor([token for answer in self.answers for token in answer.ids])[:, None]
        kl = (self.intact.exp() * (self.intact - now)).sum(-1).mean()
        return float(kl), float((self.intact.gather(1, said) - now.gather(1, said)).mean())


def draw(neurons: Sequence[Neuron], count: int, seed: int) -> NeuronSet:
    chosen = np.random.default_rng(seed).choice(len(neurons), count, replace=False)
    return NeuronSet(neurons[i] for i in chosen)


def members(sites: Sites) -> list[Neuron]:
    return [Neuron(site, i) for site in sites for i in range(site.width)]


def alive(sites: Sites, can: Importance) -> list[Neuron]:
    """Those that do anything at all on these samples: a ReLU that is off stays off, whatever it would write."""
    return [neuron for neuron in members(sites) if can.values(neuron.site)[neuron.index]]


def recalls(scores: dict[str, Importance], sites: Sites, truth: NeuronSet) -> dict[str, float]:
    return {name: recall(Ranking(found, sites), truth) for name, found in scores.items()}


@dataclass
class Planted:
    """Three neurons of a role, planted: where, and how many of them each scorer found before and finds now."""

    asked: Asked
    sites: Sites
    truth: NeuronSet
    before: dict[str, float]
    after: dict[str, float]


def planted(
    family: str, role: str, component: str, seed: int, strength: float = 1000.0, scorers: Sequence[str] = SCORERS
) -> Planted:
    vlm = fresh(family)
    sites = vlm.sites.select(component, role, reachable_only=True)
    scores = Asked(vlm).scores(sites, scorers)
    truth = draw(alive(sites, scores["can"]), PLANTED, seed)
    before = recalls(scores, sites, truth)
    plant(vlm.model, truth, strength)
    asked = Asked(vlm)
    return Planted(asked, sites, truth, before, recalls(asked.scores(sites, scorers), sites, truth))


@dataclass
class Trial:
    """One planting: recall by scorer before and after, and what masking the planted and the random neurons does."""

    before: dict[str, float]
    after: dict[str, float]
    planted: tuple[float, float]
    random: list[tuple[float, float]]


@functools.cache
def trial(family: str, role: str, component: str = "language", seed: int = 0) -> Trial:
    made = planted(family, role, component, seed)
    others = [neuron for neuron in members(made.sites) if neuron not in made.truth]
    random = [made.asked.masked(draw(others, PLANTED, i)) for i in range(DRAWS)]
    return Trial(made.before, made.after, made.asked.masked(made.truth), random)


# -- the tables of the documentation --------------------------------------------------------------------------------------
def _groups() -> Iterator[tuple[str, str, list[str]]]:
    """Component, role, and the families that have such neurons; those with a norm in between last, by themselves."""
    for component in ("language", *(c for c in COMPONENTS if c != "language")):
        for role in ("gate", "up", "hidden", "down") if component == "language" else ("hidden", "down"):
            having = [f for f in FAMILIES if (component, role) in built(f).counts]
            yield component, role, [f for f in having if component != "language" or f not in NORMED]
    for role in ("gate", "up", "hidden", "down"):
        yield "language", role, list(NORMED)


def _row(component: str, role: str, families: Sequence[str]) -> str:
    found: list[Planted] = []
    asked = set()
    for family in families:
        for seed in range(DRAWS):
            try:
                found.append(planted(family, role, component, seed, scorers=EVERY))
                asked.add(family)
            except ModelError:
                continue  # a bare parameter, which cannot be planted
    means = [f"{np.mean([p.after[name] for p in found]):.2f}" for name in EVERY]
    chance = [np.mean([p.before[name] for p in found]) for name in EVERY]
    name = f"{component}, `{role}`" if list(families) != list(NORMED) else f"Gemma 3: {component}, `{role}`"
    return f"| {name} | {len(asked)} | {' | '.join(means)} | {min(chance):.2f} to {max(chance):.2f} |"


def enlarged(family: str) -> dict[str, float]:
    """What is found if the planted columns are merely made 1000 times larger, and nothing is weakened."""
    vlm = fresh(family)
    sites = vlm.sites.select("language", "hidden")
    truth = draw(alive(sites, Asked(vlm).scores(sites)["can"]), PLANTED, 0)
    for site in truth.sites:
        module: Any = vlm.model.get_submodule(site.path)
        columns(module, module.weight)[:, truth.indices(site)] *= 1000
    return recalls(Asked(vlm).scores(sites, ("can", "wanda")), sites, truth)


def main() -> None:
    """Prints recall by part and scorer, CAN's by strength and by connector, and what making neurons larger does instead."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    print(f"| planted in | families | {' | '.join(EVERY)} | before, all scorers |\n|{'---|' * (len(EVERY) + 3)}")
    for component, role, families in _groups():
        print(_row(component, role, families), flush=True)
    language = [f for f in FAMILIES if f not in NORMED]
    strengths = (10.0, 30.0, 100.0, 1000.0)
    print(f"\n| strength | {' | '.join(f'{s:g}' for s in strengths)} |\n|{'---|' * (len(strengths) + 1)}")
    by_strength = [
        np.mean([planted(f, "hidden", "language", seed, s, ("can",)).after["can"] for f in language for seed in range(DRAWS)])
        for s in strengths
    ]
    print(f"| CAN, language `hidden` | {' | '.join(f'{m:.3f}' for m in by_strength)} |")
    having = [f for f in FAMILIES if ("connector", "hidden") in built(f).counts]
    one = {f: np.mean([planted(f, "hidden", "connector", seed, scorers=("can",)).after["can"] for seed in range(DRAWS)])
           for f in having}  # fmt: skip
    print(f"\nCAN, connector hidden: {', '.join(f'{f} {m:.2f}' for f, m in one.items() if m < 1)}; all others 1")
    larger = [enlarged(family) for family in LARGER]
    found = ", ".join(f"{name} {np.mean([row[name] for row in larger]):.2f}" for name in larger[0])
    print(f"\nMerely 1000 times larger, {len(LARGER)} families: {found}")


if __name__ == "__main__":
    main()
