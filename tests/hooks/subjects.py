"""A model that must be as it was, what can be opened on it, and threads in which that is done."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.capture import capture_activations, capture_gradients
from lesion.hooks.edit import BitFlip, MergedMask, WeightEdit, edited
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import ClassMean, Constant, Intervention, Mean, Scale, Where, Zero
from lesion.hooks.relevance import linearised
from lesion.models.handle import frozen
from lesion.models.inputs import Answer, Prompt
from lesion.models.layout import TokenLayout
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.options import ScoreOptions
from lesion.scoring.output_share import capture_with_stream
from lesion.scoring.score import score
from tests import tiny_models

REGISTRIES = [name for name in vars(nn.Module()) if "hooks" in name]
ROWS = 2
ANSWERS = [Answer((5, 6, 7), "a"), Answer((8, 9, 10), "b")]


# -- what must not change ----------------------------------------------------------------------------------------------------
def hooks_of(thing: Any) -> dict[str, list[Any]]:
    """Every registry of hooks that a module, or a part of torch, has."""
    return {name: list(value.items()) for name, value in vars(thing).items() if "hooks" in name and isinstance(value, dict)}


def data(x: torch.Tensor | None) -> bytes | None:
    """Bytes, so that -0.0 differs from 0.0 and a NaN is itself."""
    return None if x is None else x.detach().flatten().view(torch.uint8).numpy().tobytes()


def weights(model: nn.Module) -> dict[str, bytes | None]:
    return {name: data(x) for name, x in itertools.chain(model.named_parameters(), model.named_buffers())}


def snapshot(model: nn.Module, run: Callable[[], torch.Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {"grad mode": torch.is_grad_enabled(), "inference mode": torch.is_inference_mode_enabled()}
    found |= {f"weights of {name}": value for name, value in weights(model).items()}
    found |= {f"torch's {name}": hooks for name, hooks in hooks_of(sys.modules[nn.Module.__module__]).items()}
    for path, module in model.named_modules():
        found[f"module {path}"] = id(module), module.training, sorted(vars(module))
        found |= {f"{name} of {path}": hooks for name, hooks in hooks_of(module).items()}
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    found["configurations"] = repr([sorted(vars(config).items()) for config in configs.values()])
    for name, p in model.named_parameters():
        asked = [list((hooks or {}).items()) for hooks in (p._backward_hooks, p._post_accumulate_grad_hooks)]
        found[f"parameter {name}"] = id(p), p.data_ptr(), p.requires_grad, id(p.grad), data(p.grad), asked
    with torch.no_grad():
        found["logits"] = data(run())
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


# -- the model ---------------------------------------------------------------------------------------------------------------
class Subject:
    """A tiny model that is somebody's: with hooks, gradients and modes of their own."""

    def __init__(self) -> None:
        self.vlm: VisionLanguageModel = tiny_models.llava()
        self.model: Any = self.vlm.model
        self.prompts: list[Prompt] = [self.vlm.prompt(s, "What do you see?") for s in tiny_models.samples(ROWS)]
        self.inputs = {k: torch.cat([p.inputs[k] for p in self.prompts]) for k in self.prompts[0].inputs}
        self.classes = [self.vlm.token_classes(p) for p in self.prompts]
        self.layout = TokenLayout()
        self.run()  # transformers adds hooks of its own at a model's first run
        for i, parameter in enumerate(self.model.parameters()):
            parameter.requires_grad_(i % 3 > 0)
        for i, module in enumerate(self.model.modules()):
            module.training = i % 2 == 0
        self.called: list[str] = []
        for role in ("gate", "hidden"):
            self.module(role).register_forward_hook(lambda *_: self.called.append("after"))
            self.module(role).register_forward_pre_hook(lambda *_: self.called.append("before"))
        weight = next(p for p in self.module("up").parameters())
        weight.requires_grad_(True).grad = torch.full_like(weight, 0.5)
        weight.register_hook(lambda _: self.called.append("gradient"))
        weight.register_post_accumulate_grad_hook(lambda _: self.called.append("accumulated"))
        self.before = self.snapshot()
        self.hooks = self.count()

    def module(self, role: str) -> Any:
        return self.model.get_submodule(self.site(role).path)

    def site(self, role: str, layer: int = 1) -> Site:
        return self.vlm.sites.select("language", role, layers=[layer])[0]

    def run(self) -> torch.Tensor:
        self.layout.expect(self.classes)
        return self.model(**self.inputs).logits

    def score(self, names: Sequence[str]) -> None:
        self.layout.expect(self.classes, [len(a.ids) for a in ANSWERS])
        options = ScoreOptions(ig_steps=1, ig_path="all")
        score(self.model, self.vlm.sites, self.vlm.batches(self.prompts, ANSWERS, ROWS), names, options)

    def snapshot(self) -> dict[str, Any]:
        return snapshot(self.model, self.run)

    def changed(self) -> list[str]:
        """What is not as it was."""
        return changed(self.before, self.snapshot())

    def count(self) -> Counter[tuple[str, str]]:
        """How many hooks each registry of each module has."""
        every = ((path, vars(module)) for path, module in self.model.named_modules())
        return Counter({(path, name): len(own[name]) for path, own in every for name in REGISTRIES if own[name]})


@cache
def subject() -> Subject:
    return Subject()


@cache
def twin() -> Subject:
    """A second model like it, that tells what the first should do."""
    return Subject()


# -- what is opened ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class Recipe:
    """A context, to be opened on the model or on its twin.

    Attributes:
        name: What a failing example shows.
        enter: Makes it.
        fits: Whether the model can be run inside.
        edits: What it does to the weights.
    """

    name: str
    enter: Callable[[Subject], AbstractContextManager[object]]
    fits: bool = True
    edits: tuple[WeightEdit, ...] = ()

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Noise(Intervention):
    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor:
        return x + torch.randn_like(x)


@cache
def statistics() -> dict[str, dict[str, np.ndarray]]:
    """Made up, for every site."""
    draw, sites = np.random.default_rng(0), subject().vlm.sites
    means = {s.key: draw.normal(size=s.width * s.group) for s in sites}
    of_classes = {s.key: draw.normal(size=(3, s.width * s.group)) for s in sites.select("language")}
    return {"mean": means, "class-mean": means | of_classes}


ACTS = (
    Zero(), Mean(), ClassMean(), Scale(factor=-1.5), Constant(number=2.0), Noise(), Zero(positions="image"),
    Noise(positions="text"), Constant(number=1.0, positions="generated"), Scale(factor=0.0, layers=frozenset({0, 2})),
)  # fmt: skip


@st.composite
def neuron_sets(draw: st.DrawFn, everywhere: bool = True) -> NeuronSet:
    sites = list(subject().vlm.sites if everywhere else subject().vlm.sites.select("language"))
    chosen = draw(st.lists(st.sampled_from(sites), max_size=3, unique=True))
    return NeuronSet(Neuron(s, i) for s in chosen for i in draw(st.sets(st.integers(0, s.width - 1), min_size=1, max_size=3)))


@st.composite
def masks(draw: st.DrawFn) -> Recipe:
    act = draw(st.sampled_from(ACTS))
    rows = draw(st.sampled_from((None, None, ROWS, ROWS, ROWS + 1)))
    sets = draw(st.lists(neuron_sets(act.positions == "all"), min_size=rows or 1, max_size=rows or 1))
    acting = any(act.layers is None or s.layer in act.layers for members in sets for s in members.sites)
    neurons = sets[0] if rows is None else sets

    fits = rows in (None, ROWS) or not acting

    def enter(on: Subject) -> AbstractContextManager[object]:
        return mask(on.model, neurons, act, statistics(), on.layout if fits else None)

    return Recipe(f"mask({act.id}, {neurons})", enter, fits)


@contextmanager
def scoring(on: Subject) -> Iterator[None]:
    """What a pass of a scorer opens."""
    with frozen(on.model), capture_gradients(on.model, on.vlm.sites, lambda *_: None), linearised(on.model):
        yield


OTHERS = (
    Recipe("capture_activations", lambda on: capture_activations(on.model, on.vlm.sites, lambda *_: None)),
    Recipe("capture_gradients", lambda on: capture_gradients(on.model, on.vlm.sites, lambda *_: None)),
    Recipe("capture_with_stream", lambda on: capture_with_stream(on.model, on.vlm.sites, lambda *_: None)),
    Recipe("linearised", lambda on: linearised(on.model)),
    Recipe("frozen", lambda on: frozen(on.model)),
    Recipe("prepared", lambda on: on.vlm.prepared()),
    Recipe("scoring", scoring),
)


@st.composite
def weight_edits(draw: st.DrawFn) -> Recipe:
    """Of few weights of one module, so that they meet."""
    hidden, down = subject().site("hidden"), subject().site("down")
    flips = st.builds(
        BitFlip, st.just(f"{hidden.path}.weight"), st.tuples(st.integers(0, 1), st.integers(0, 1)), st.sampled_from((22, 31))
    )
    merged = st.builds(lambda s, i: MergedMask(NeuronSet([Neuron(s, i)])), st.sampled_from((hidden, down)), st.integers(0, 1))
    edits = draw(st.lists(flips | merged, max_size=3))
    return Recipe(f"edited({[e.id for e in edits]})", lambda on: edited(on.model, edits), edits=tuple(edits))


RECIPES = masks() | masks() | st.sampled_from(OTHERS) | weight_edits()


# -- in this thread or in others --------------------------------------------------------------------------------------------
def held(context: AbstractContextManager[object]) -> Iterator[None]:
    """A generator that stops inside: it can be gone on with, have an error thrown in, or be dropped."""
    with context:
        yield


def here(act: Callable[[], object]) -> None:
    act()


def elsewhere(act: Callable[[], object]) -> None:
    """In a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(act).result()


def at_once(*acts: Callable[[], object]) -> None:
    """Each in a thread of its own."""
    with ThreadPoolExecutor(len(acts)) as pool:
        for future in [pool.submit(act) for act in acts]:
            future.result()


class Mistake(BaseException):
    """As little an ``Exception`` as Ctrl-C is."""
