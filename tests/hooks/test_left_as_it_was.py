"""Whatever happens at one moment (an error, a dropped generator, a user's own hook, other threads): the model is as it was."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from threading import Barrier
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lesion.core.errors import ModelError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.attach import attached
from lesion.hooks.capture import capture_activations, capture_gradients
from lesion.hooks.edit import BitFlip, MergedMask, WeightEdit, edited
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import Intervention, Mean
from lesion.models import experts
from lesion.models.handle import frozen
from lesion.scoring.options import ScoreOptions
from lesion.scoring.output_share import capture_with_stream
from lesion.scoring.score import score
from lesion.scoring.scorers import SCORERS
from tests.hooks.subjects import (
    ANSWERS,
    OTHERS,
    ROWS,
    Mistake,
    Recipe,
    Subject,
    at_once,
    changed,
    elsewhere,
    held,
    snapshot,
    statistics,
    weights,
)
from tests.models.test_families import answered
from tests.tiny_models import Numbers, ThreeNeurons

pytestmark = pytest.mark.usefixtures("quick_collections")


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
