"""What tests of faults and guards share: a set of tiny-llava's planted units, and their guard."""

from __future__ import annotations

from pathlib import Path

import pytest

from lesion import load
from lesion.data.samples import load_samples
from lesion.remedies.guard import Guard
from tests.remedies.test_harden import PROMPT, critical

LONGEST = 8
"""Tokens of an answer."""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that has both."""
    folder, vlm = tmp_path_factory.mktemp("held"), load("tiny-llava")
    critical(vlm).save(folder / "set.json")
    Guard.make(vlm, critical(vlm), load_samples("scenes", 8), PROMPT, LONGEST).save(folder / "guard")
    return folder
