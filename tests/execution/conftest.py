from __future__ import annotations

from pathlib import Path

import pytest

from lesion import Study
from tests.execution.common import OPTIONS


@pytest.fixture(scope="package")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study in one process."""
    out = tmp_path_factory.mktemp("serial") / "run"
    result = Study(out=out, **OPTIONS).run()
    assert result.k_star and result.minimal_set, "the stages behind a collapse have something to do"
    return out
