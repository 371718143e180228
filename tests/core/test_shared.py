"""A shared state ends with its last holder, in whatever order and thread they leave."""

from __future__ import annotations

import gc
import threading

import pytest

from lesion.core.shared import Shared
from lesion.models.handle import frozen
from tests import tiny_models


class Lamp:
    lit = 0


def light(lamp: Lamp):
    lamp.lit += 1

    def undo() -> None:
        lamp.lit -= 1

    return undo


def test_the_last_who_leaves_undoes_it():
    lamp, on = Lamp(), Shared(light)
    first, second = on(lamp), on(lamp)
    first.__enter__()
    second.__enter__()
    assert lamp.lit == 1
    first.__exit__(None, None, None)
    assert lamp.lit == 1, "the second still holds it"
    second.__exit__(None, None, None)
    assert lamp.lit == 0
    with on(lamp), on(Lamp()):
        assert lamp.lit == 1


def test_it_ends_with_an_error_and_with_what_was_dropped():
    lamp, on = Lamp(), Shared(light)
    with pytest.raises(KeyError), on(lamp):
        raise KeyError
    assert lamp.lit == 0
    held = on(lamp)
    held.__enter__()
    del held
    gc.collect()
    assert lamp.lit == 0


def test_what_cannot_be_made_is_not_held():
    def fail(_: Lamp):
        raise KeyError

    on, lamp = Shared(fail), Lamp()
    for _ in range(2):
        with pytest.raises(KeyError), on(lamp):
            pass


def test_threads_share_it():
    lamp, on, seen = Lamp(), Shared(light), []

    def hold() -> None:
        for _ in range(200):
            with on(lamp):
                seen.append(lamp.lit)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1} and lamp.lit == 0


def test_a_model_is_frozen_until_nobody_needs_it():
    model = tiny_models.llava().model
    weight = next(model.parameters())
    weight.requires_grad_(True)
    model.train()
    try:
        first, second = frozen(model), frozen(model)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not weight.requires_grad and not model.training
        second.__exit__(None, None, None)
        assert weight.requires_grad and model.training
    finally:
        model.eval().requires_grad_(False)
