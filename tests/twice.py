"""``python -m tests.twice [pytest's options]``: the suite, and then again in the same process, in which nothing is new.

What the first time leaves behind (a cache, a registered scorer, a patched module) meets the second.
"""

from __future__ import annotations

import sys

import pytest


def main(options: list[str]) -> int:
    """The exit code of the first time that fails; 0 where neither does."""
    return next((code for _ in range(2) if (code := pytest.main(options))), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
