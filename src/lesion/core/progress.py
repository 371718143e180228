"""How long stages report their progress; silent unless somebody listens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """What a study calls; :class:`lesion.cli.terminal.Bars` draws it."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """A stage of ``total`` steps (None where that is not known); call what it yields with the steps done."""
        ...

    def warn(self, line: str) -> None:
        """One line that the user should see now."""
        ...


class Silent:
    """Says nothing."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        return nullcontext(lambda steps: None)

    def warn(self, line: str) -> None:
        pass
