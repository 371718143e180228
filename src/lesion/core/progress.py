"""How long stages report their progress; silent unless somebody listens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """What a study calls; :func:`lesion.cli.progress.listener` makes one that shows it."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """A stage of ``total`` steps (None where that is not known); call what it yields with the steps done."""
        ...

    def point(self, k: int, perplexity: float | None, decision: str) -> None:
        """The first ``k`` of the ranking were masked.

        Args:
            k: How many.
            perplexity: Of the reference answers; None where it is not finite or too large for a float.
            decision: What the criterion says.
        """
        ...

    def warn(self, line: str) -> None:
        """One line that the user should see now."""
        ...


class Silent:
    """Says nothing."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        return nullcontext(lambda steps: None)

    def point(self, k: int, perplexity: float | None, decision: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass
