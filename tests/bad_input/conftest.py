"""What the tables share: the checker with a folder of its own, and one tiny model on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models
from tests.bad_input import checker


@pytest.fixture
def check(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """:func:`tests.bad_input.checker.check` in a folder of the test's own."""

    def run(case: checker.Case, around: Any = None) -> str:
        return checker.check(case, tmp_path, capfd, around)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA that is whole; to be copied, not changed."""
    vlm, folder = tiny_models.llava(), tmp_path_factory.mktemp("tiny") / "model"
    for part in (vlm.model, vlm.processor):
        part.save_pretrained(folder)
    return folder
