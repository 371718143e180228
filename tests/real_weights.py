"""The mark of tests that need pretrained weights, which a package carries; where it is missing they say how to get it."""

from __future__ import annotations

import pytest

from lesion.models import packaged

needs_real_weights = pytest.mark.skipif(packaged.installed() is None, reason=f"needs the package: {packaged.INSTALL}")
