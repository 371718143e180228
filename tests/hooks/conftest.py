from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.hooks.subjects import Subject, subject


@pytest.fixture
def on() -> Iterator[Subject]:
    """The model that all tests share. Where one does not give it back as it was, the others get a new one."""
    yield subject()
    if subject().changed():
        subject.cache_clear()


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """What was there before is left out of collections, which would take 0.1 s each."""
    gc.freeze()
    yield
    gc.unfreeze()
