"""However contexts are nested and left, in any order, by an error, by being dropped, and in any thread: the model is as it was.

That is to say, to the byte and to the object: hooks of modules and of parameters, weights, buffers, gradients, logits,
``requires_grad``, training mode, attributes of modules, the configuration, and torch's own grad mode.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lesion.core.errors import NeuronSetError
from lesion.hooks.edit import edited
from tests.hooks.subjects import (
    RECIPES,
    Mistake,
    Recipe,
    at_once,
    data,
    elsewhere,
    held,
    here,
    subject,
    twin,
)

pytestmark = pytest.mark.usefixtures("quick_collections")


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
