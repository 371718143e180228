"""However contexts are nested and left, in any order, by an error, by being dropped, and in any thread: the model is as it was.

That is to say, to the byte and to the object: hooks of modules and of parameters, weights, buffers, gradients, logits,
``requires_grad``, training mode, attributes of modules, the configuration, and torch's own grad mode.
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import nn

from lesion.core.errors import ModelError, NeuronSetError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.attach import attached
from lesion.hooks.capture import capture_activations, capture_gradients
from lesion.hooks.edit import BitFlip, MergedMask, WeightEdit, edited
from lesion.hooks.intervene import ClassMean, Constant, Intervention, Mean, Scale, Where, Zero, mask
from lesion.hooks.relevance import linearised
from lesion.models import experts
from lesion.models.handle import frozen
from lesion.models.inputs import Answer, Prompt
from lesion.models.layout import TokenLayout
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.options import ScoreOptions
from lesion.scoring.output_share import capture_with_stream
from lesion.scoring.score import score
from lesion.scoring.scorers import SCORERS
from tests import tiny_models
from tests.models.test_families import answered
from tests.tiny_models import Numbers, ThreeNeurons

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


@pytest.fixture
def on() -> Iterator[Subject]:
    """The model that all tests share. Where one does not give it back as it was, the others get a new one."""
    yield subject()
    if subject().changed():
        subject.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> Iterator[None]:
    """What was there before is left out of collections, which would take 0.1 s each."""
    gc.freeze()
    yield
    gc.unfreeze()


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


# -- any nesting, order, error, dropped generator and thread -------------------------------------------------------------------
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


@dataclass
class Open:
    """An open context, with the hooks that came when it was entered."""

    recipe: Recipe
    generator: Any
    hooks: Counter[tuple[str, str]]

    def end(self) -> None:
        assert next(self.generator, "over") == "over"

    def fail(self) -> None:
        with pytest.raises(Mistake):
            self.generator.throw(Mistake())

    def drop(self) -> None:
        self.generator = None

    def forget(self) -> None:
        """In a ring, that only the collector finds."""
        ring = [self.generator]
        ring.append(ring)
        self.generator = None
        del ring
        gc.collect()


class Contexts(RuleBasedStateMachine):
    """Contexts are entered and left at will. At every step the model is what those that are open make of it, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.on = subject()
        self.open: list[Open] = []

    @rule(recipes=st.lists(RECIPES, min_size=1, max_size=3), where=st.sampled_from((here, elsewhere)))
    def enter(self, recipes: Sequence[Recipe], where: Callable[[Callable[[], object]], None]) -> None:
        for recipe in recipes:
            before, generator = self.on.count(), held(recipe.enter(self.on))
            where(lambda generator=generator: next(generator))
            self.open.append(Open(recipe, generator, self.on.count() - before))

    @precondition(lambda self: self.open)
    @rule(
        draw=st.data(), last=st.booleans(), how=st.sampled_from((Open.end, Open.fail, Open.drop, Open.forget)),
        where=st.sampled_from((here, elsewhere)),
    )  # fmt: skip
    def leave(self, draw: Any, last: bool, how: Callable[[Open], None], where: Callable[[Callable[[], object]], None]) -> None:
        one = self.open.pop(-1 if last else draw.draw(st.integers(0, len(self.open) - 1)))
        where(lambda: how(one))

    @rule(grad=st.booleans())
    def run(self, grad: bool) -> None:
        """The twin, on which the same contexts are opened in the same order, says what comes out."""
        with torch.set_grad_enabled(grad):
            if not all(one.recipe.fits for one in self.open):
                with pytest.raises(NeuronSetError, match="per-sample masks"):
                    self.on.run()
                return
            with ExitStack() as stack:
                for one in self.open:
                    stack.enter_context(one.recipe.enter(twin()))
                torch.manual_seed(0)
                expected = twin().run()
            torch.manual_seed(0)
            assert torch.equal(self.on.run(), expected)

    @rule(role=st.sampled_from(("up", "hidden", "down")))
    def fail_inside(self, role: str) -> None:
        def fail(*_: Any) -> None:
            raise Mistake

        handle = self.on.module(role).register_forward_hook(fail)
        with pytest.raises((Mistake, NeuronSetError)):
            self.on.run()
        handle.remove()

    @rule(names=st.sampled_from((("can",), ("relp",), ("superweight",))))
    def score(self, names: Sequence[str]) -> None:
        fits = all(one.recipe.fits for one in self.open)
        with nullcontext() if fits else pytest.raises(NeuronSetError, match="per-sample masks"):
            self.on.score(names)

    @rule(pair=st.tuples(RECIPES, RECIPES))
    def two_threads(self, pair: tuple[Recipe, Recipe]) -> None:
        """Both enter at once, run the model at once, and leave at once."""
        together = Barrier(2, timeout=60)

        def work(recipe: Recipe) -> None:
            together.wait()
            with recipe.enter(self.on), torch.no_grad():
                together.wait()
                with suppress(NeuronSetError):
                    self.on.run()
                together.wait()

        at_once(*(lambda recipe=recipe: work(recipe) for recipe in pair))

    @invariant()
    def hooks_are_those_of_the_open_contexts(self) -> None:
        assert self.on.count() == sum((one.hooks for one in self.open), self.on.hooks)

    @invariant()
    def weights_are_edited_as_the_open_contexts_say(self) -> None:
        edits = [edit for one in self.open for edit in one.recipe.edits]
        with edited(twin().model, edits):
            # Of the only weights that are edited here; the others are looked at in the end.
            assert data(self.on.module("down").weight) == data(twin().module("down").weight)
        assert getattr(self.on.model.config, "lesion_edits", []) == [edit.id for edit in edits]

    @invariant()
    def gradients_are_asked_for_as_before(self) -> None:
        assert torch.is_grad_enabled()

    def teardown(self) -> None:
        try:
            for one in self.open:
                one.end()
            assert self.on.changed() == []
        except BaseException:
            subject.cache_clear()  # the next example gets a model that is whole
            raise


TestContexts = Contexts.TestCase
TestContexts.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


# -- entering, and errors inside ---------------------------------------------------------------------------------------------
def some(of: Subject, role: str, *indices: int) -> NeuronSet:
    return NeuronSet(Neuron(of.site(role), i) for i in indices)


MASKS = (
    Recipe("mask", lambda of: mask(of.model, some(of, "gate", 1, 5) | some(of, "hidden", 2) | some(of, "down", 0))),
    Recipe("mask of rows", lambda of: mask(of.model, [some(of, "up", 1), some(of, "hidden", 2)], Mean(), statistics())),
)
HOOKED = (*MASKS, *(recipe for recipe in OTHERS if recipe.name not in ("frozen", "prepared")))
EVERY = (*MASKS, *OTHERS, Recipe("edited", lambda of: edited(of.model, [MergedMask(some(of, "hidden", 1))])))


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("recipe", HOOKED, ids=repr)
def test_what_cannot_be_attached_takes_what_was_attached_with_it(on, recipe):
    """Ctrl-C comes in place of the first hook, of the second, of the third ..., until all could be attached."""

    def attached_before(number: int) -> bool:
        """Whether so many hooks are all."""
        left = itertools.count(number, -1)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("register_forward_hook", "register_forward_pre_hook"):
                plain = getattr(nn.Module, name)
                patch.setattr(nn.Module, name, lambda *a, _plain=plain, **k: _plain(*a, **k) if next(left) else interrupt())
            with suppress(KeyboardInterrupt), recipe.enter(on):
                return True
        return False

    assert next(number for number in itertools.count() if attached_before(number)) > 1
    assert on.changed() == []


@pytest.mark.parametrize("capture", [capture_activations, capture_gradients, capture_with_stream])
def test_a_site_of_another_model_takes_the_others_with_it(on, capture):
    nowhere = Site("model.layers.9.nowhere", "language", "up", 9, 4)
    if capture is capture_with_stream:
        nowhere = Site(f"{on.site('gate').path}.nowhere", "language", "up", 1, 4)  # in a layer that is there
    with pytest.raises(ModelError, match=r"has no module '.*nowhere'"), capture(on.model, [*on.vlm.sites, nowhere], interrupt):
        pass
    assert on.changed() == []


def test_a_list_of_hooks_that_breaks_off_takes_those_before_it_with_it(on):
    def hooks() -> Iterator[Any]:
        yield on.site("gate"), interrupt
        raise Mistake

    with pytest.raises(Mistake), attached(on.model, hooks()):
        pass
    assert on.changed() == []


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, StopIteration, GeneratorExit])
@pytest.mark.parametrize("recipe", EVERY, ids=repr)
def test_an_error_in_the_models_forward(on, recipe, error):
    def fail(*_: Any) -> None:
        raise error

    handle = on.module("down").register_forward_hook(fail)
    with pytest.raises(error), recipe.enter(on):
        on.run()
    handle.remove()
    assert on.changed() == []


@pytest.mark.parametrize("role", ["up", "hidden"])
def test_an_error_in_what_is_called_from_hooks(on, role):
    """In the forward pass and in the backward one, by what captures and by what intervenes."""

    class Wrong(Intervention):
        value = interrupt

    site = on.site(role)
    contexts = [
        capture_activations(on.model, [site], interrupt), capture_gradients(on.model, [site], interrupt),
        capture_with_stream(on.model, [site], interrupt), mask(on.model, some(on, role, 1), Wrong()),
        mask(on.model, [some(on, role, 1)] * ROWS, Wrong()),
    ]  # fmt: skip
    for context in contexts:
        with pytest.raises(KeyboardInterrupt), frozen(on.model), context:
            on.run().sum().backward()
        assert on.changed() == []


# -- what is dropped ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("recipe", EVERY, ids=repr)
def test_a_generator_of_batches_that_is_dropped_half_way(on, recipe, ring):
    """In a ring with other objects the collector of garbage finds it, and torch's own handles cannot remove a hook then."""

    def losses() -> Iterator[torch.Tensor]:
        with recipe.enter(on):
            for batch in on.vlm.batches(on.prompts, ANSWERS, ROWS):
                while True:
                    yield batch.losses()

    holder: list[Any] = [losses()]
    next(holder[0])
    during = on.count(), weights(on.model), [p.requires_grad for p in on.model.parameters()]
    if ring:
        holder.append(holder)
        del holder
        gc.collect()
    else:
        del holder
    assert during != (on.count(), weights(on.model), [p.requires_grad for p in on.model.parameters()])
    assert on.changed() == []


# -- scoring -----------------------------------------------------------------------------------------------------------------
class Restless(ThreeNeurons):
    """In training mode it answers at random, and remembers what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(1), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.drop(self.norm(x.mT).mT))


class Failing(Numbers):
    """A batch that fails in one of its passes."""

    def __init__(self, model: nn.Module, where: str) -> None:
        super().__init__(model, [[1.0, 2.0]])
        self.where = where

    def losses(self) -> torch.Tensor:
        losses = super().losses()
        return interrupt() if self.where == "losses" else losses

    def run_perturbed(self, noise: float, seed: int) -> None:
        super().run_perturbed(noise, seed)
        if self.where == "perturbed":
            interrupt()


PLAIN = ("can", "activation", "gradient", "perturbation", "superweight", "wanda", "integrated-gradients")


@given(
    asked=st.lists(st.booleans(), min_size=5, max_size=5), training=st.lists(st.booleans(), min_size=7, max_size=7),
    where=st.sampled_from(("nowhere", "losses", "perturbed", "batches", "progress")),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_scoring_gives_gradients_and_modes_back_whatever_they_were_and_wherever_it_stops(asked, training, where):
    model = Restless()
    for parameter, ask in zip(model.parameters(), asked, strict=True):
        parameter.requires_grad_(ask).grad = torch.full_like(parameter, 0.25)
    for module, mode in zip(model.modules(), training, strict=True):
        module.training = mode
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.register_hook(interrupt)
        parameter.register_post_accumulate_grad_hook(interrupt)
    found, options = snapshot(model, lambda: torch.zeros(1)), ScoreOptions(ig_steps=2)

    def batches() -> Iterator[Numbers]:
        yield Numbers(model, [[2.0, -1.0], [0.5, 3.0]])
        yield Failing(model, where)
        if where == "batches":
            interrupt()

    def progress(rows: int) -> None:
        assert not any(p.requires_grad for p in model.parameters()) and not any(m.training for m in model.modules())
        if where == "progress":
            interrupt()

    with nullcontext() if where == "nowhere" else pytest.raises(KeyboardInterrupt):
        scored = score(model, model.sites, batches(), PLAIN, options, progress)
        still = Restless().eval().requires_grad_(False)
        expected = score(still, still.sites, [Numbers(still, [[2.0, -1.0], [0.5, 3.0]]), Failing(still, "")], PLAIN, options)
        for name in PLAIN:
            assert all((scored[name].values(s) == expected[name].values(s)).all() for s in model.sites), name
    assert changed(found, snapshot(model, lambda: torch.zeros(1))) == []


def test_every_scorer_leaves_a_model_of_somebodys_as_it_was(on):
    """Also the hooks and gradients of its parameters: no backward pass reaches them."""
    on.called.clear()
    on.score(list(SCORERS))
    assert on.called and not {"gradient", "accumulated"} & set(on.called)
    assert on.changed() == []


# -- what is the user's ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("recipe", EVERY, ids=repr)
def test_the_users_own_hooks_are_called_come_and_go_inside(on, recipe):
    called: list[str] = []
    module = on.module("gate")
    first = module.register_forward_hook(lambda *_: called.append("first"))
    with recipe.enter(on):
        second = module.register_forward_hook(lambda *_: called.append("second"))
        on.run()
        first.remove()
    on.run()
    assert called == ["first", "second", "second"]
    second.remove()
    assert on.changed() == []


@pytest.mark.parametrize("recipe", [r for r in EVERY if r.name not in ("frozen", "prepared", "scoring")], ids=repr)
def test_a_mode_that_the_user_changes_inside_stays(on, recipe):
    """None but scoring has a say in them."""
    norm = next(m for m in on.model.modules() if "Norm" in type(m).__name__)
    before = norm.training, norm.weight.requires_grad
    with recipe.enter(on):
        norm.train(not before[0])
        norm.weight.requires_grad_(not before[1])
    assert (norm.training, norm.weight.requires_grad) == (not before[0], not before[1])
    norm.train(before[0])
    norm.weight.requires_grad_(before[1])
    assert on.changed() == []


# -- threads -----------------------------------------------------------------------------------------------------------------
def test_a_mask_is_the_models_and_not_a_threads(on):
    """Two threads mask other neurons of one model at once: both are masked for both, and neither for anyone afterwards."""
    gate, down = some(on, "gate", 1, 5), some(on, "down", 0)
    with torch.no_grad():
        intact = on.run()
        with mask(on.model, gate), mask(on.model, down):
            expected = on.run()
    together, found = Barrier(2, timeout=60), list[torch.Tensor]()

    def work(neurons: NeuronSet) -> None:
        with mask(on.model, neurons), torch.no_grad():
            together.wait()
            found.append(on.run())
            together.wait()

    at_once(lambda: work(gate), lambda: work(down))
    assert len(found) == 2 and all(torch.equal(logits, expected) for logits in found)
    assert not torch.equal(expected, intact)
    assert on.changed() == []


@contextmanager
def often_switching() -> Iterator[None]:
    """Threads give way to each other all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("recipe", EVERY, ids=repr)
def test_threads_that_enter_and_leave_at_once(on, recipe):
    def work() -> None:
        for _ in range(20):
            with recipe.enter(on):
                pass

    with often_switching():
        at_once(work, work, work)
    assert on.changed() == []


# -- edits -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_edits_of_one_weight_are_left_in_any_order(order):
    """1.5 with its sign flipped is -1.5, with the highest bit of its mantissa flipped 1, and doubled 3."""

    class Doubled(WeightEdit):
        @property
        def id(self) -> str:
            return "doubled"

        def parts(self, model: nn.Module) -> Iterator[torch.Tensor]:
            yield model.get_parameter("weight")[0]

        def apply(self, model: nn.Module) -> None:
            model.get_parameter("weight")[0] *= 2

    model: Any = nn.Linear(1, 1)
    model.config = nn.Module()
    with torch.no_grad():
        model.weight.fill_(1.5)
    edits = [BitFlip("weight", (0, 0), 31), BitFlip("weight", (0, 0), 22), Doubled()]
    alone = {(): 1.5, (0,): -1.5, (1,): 1.0, (2,): 3.0, (0, 1): -1.0, (0, 2): -3.0, (1, 2): 2.0, (0, 1, 2): -2.0}
    contexts = [edited(model, [edit]) for edit in edits]
    for context in contexts:
        context.__enter__()
    left = [0, 1, 2]
    for number in order:
        assert model.weight.item() == alone[tuple(left)]
        assert model.config.lesion_edits == [edits[i].id for i in left]
        contexts[number].__exit__(None, None, None)
        left.remove(number)
    assert model.weight.item() == 1.5 and not hasattr(model.config, "lesion_edits")


def test_gradients_are_asked_for_inside_an_edit_as_outside(on):
    with edited(on.model, [MergedMask(some(on, "hidden", 1))]):
        assert torch.is_grad_enabled() and on.run().requires_grad
        with torch.no_grad(), edited(on.model, [MergedMask(some(on, "down", 1))]):
            assert not torch.is_grad_enabled()
    generator = held(edited(on.model, [MergedMask(some(on, "hidden", 1))]))
    next(generator)
    assert torch.is_grad_enabled()
    elsewhere(lambda: next(generator, None))
    assert on.changed() == []


# -- experts -----------------------------------------------------------------------------------------------------------------
def test_experts_are_computed_as_before():
    """After errors on entering and inside, and when contexts are left in another order or dropped in a ring."""
    vlm, prompts, answers = answered("mixtral")
    [batch] = vlm.batches(prompts[:1], answers[:1], 1)
    batch.losses()
    sites = [s for s in vlm.sites if s.expert is not None]
    before, others = snapshot(vlm.model, batch.losses), len(experts._ACTS)
    nowhere = Site("nowhere", "language", "up", 9, 4)
    with pytest.raises(ModelError), capture_activations(vlm.model, [*sites, nowhere], interrupt):
        pass
    with pytest.raises(KeyboardInterrupt), capture_activations(vlm.model, sites, interrupt):
        batch.losses()
    one, two = (capture_gradients(vlm.model, sites, interrupt) for _ in range(2))
    for context in (one, two):
        context.__enter__()
    assert len(experts._ACTS) > others
    for context in (one, two):
        context.__exit__(None, None, None)
    ring: list[Any] = [held(mask(vlm.model, NeuronSet([Neuron(sites[0], 1)])))]
    next(ring[0])
    ring.append(ring)
    del ring
    gc.collect()
    assert len(experts._ACTS) == others
    assert vlm.model.config._experts_implementation != experts.IMPLEMENTATION
    assert changed(before, snapshot(vlm.model, batch.losses)) == []
