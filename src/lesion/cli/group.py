"""A group of commands, and the one line that answers what cannot be read on the command line."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from lesion.cli.terminal import fail

# Of typer's own class for what cannot be read on the command line, only this subclass has a public name.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class OneLineErrors(TyperGroup):
    """A group whose usage errors are one line, as all errors of its commands are."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs a command; ends the process with its exit code where ``standalone_mode`` is true."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except UsageError as error:
            code = fail(_hint(error), 2).exit_code
        raise SystemExit(code or 0)


def _hint(error: Any) -> str:
    """What is wrong, and the command that shows what is right."""
    path = error.ctx.command_path if error.ctx is not None else "lesion"
    return f"{error.format_message().rstrip('.')}; see {path} --help"
