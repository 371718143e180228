from __future__ import annotations

import os

import pytest
import torch

from lesion.models.vlm import VisionLanguageModel
from tests import tiny_models

# Two processes with as many threads as there are cores slow each other many times. Commands that tests start inherit it.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // _WORKERS)))
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(params=sorted(tiny_models.BUILDERS))
def vlm(request: pytest.FixtureRequest) -> VisionLanguageModel:
    """A tiny random model of each family."""
    return tiny_models.BUILDERS[request.param]()
