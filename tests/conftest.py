from __future__ import annotations

import os

import pytest
import torch

from lesion.models.vlm import VisionLanguageModel
from tests import tiny_models

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


@pytest.fixture(params=sorted(tiny_models.BUILDERS))
def vlm(request: pytest.FixtureRequest) -> VisionLanguageModel:
    """A tiny random model of each family."""
    return tiny_models.BUILDERS[request.param]()
