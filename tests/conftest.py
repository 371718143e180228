from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from lesion.core.criterion import CRITERIA
from lesion.models.vlm import VisionLanguageModel
from tests import tiny_models

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes with as many threads as there are cores slow each other many times. Commands that tests start inherit it.
    _THREADS = max(1, (os.cpu_count() or 2) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ["OMP_NUM_THREADS"] = str(_THREADS)
    torch.set_num_threads(_THREADS)


@pytest.fixture(params=sorted(tiny_models.BUILDERS))
def vlm(request: pytest.FixtureRequest) -> VisionLanguageModel:
    """A tiny random model of each family."""
    return tiny_models.BUILDERS[request.param]()


@pytest.fixture(autouse=True)
def criteria() -> Iterator[None]:
    """A criterion that a test registers is gone after it."""
    before = dict(CRITERIA)
    yield
    CRITERIA.clear()
    CRITERIA.update(before)
