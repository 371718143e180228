"""What every command does before anything else: it refuses words that are no text, and shows tracebacks on request."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from lesion.core.errors import LesionError
from lesion.study.options import check_text

Debug = Annotated[bool, typer.Option("--debug", help="where an error comes from, as a traceback")]
_everywhere = False


def debug_everywhere(wanted: bool) -> None:
    """Sets whether ``--debug`` was given before the command."""
    global _everywhere
    _everywhere = wanted


def checked(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the option ``--debug``, and checks its words."""

    @wraps(command)
    def run(*, debug: bool, **words: Any) -> None:
        try:
            for name, value in words.items():
                for word in value if isinstance(value, list) else [value]:
                    check_text(name, str(word) if isinstance(word, Path) else word)
            command(**words)
        except (LesionError, OSError, MemoryError, RuntimeError) as error:
            if (debug or _everywhere) and not isinstance(error, typer.Exit):
                typer.echo(_whole(error), err=True, nl=False)
            raise

    signature = inspect.signature(command, eval_str=True)
    more = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    # What typer reads a command's arguments and options from.
    parameters = [*signature.parameters.values(), more]
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return run


def _whole(error: BaseException) -> str:
    """A traceback with what lesion's errors leave out for users: the error of a library that they stand for."""
    inner: BaseException | None = error
    while inner is not None:
        inner.__suppress_context__ = False
        inner = inner.__cause__ or inner.__context__
    return "".join(traceback.format_exception(error))
