"""What every command does: errors in one line, and answers as tables or JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.core.errors import LesionError

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="print JSON to standard output instead of tables")]
Out = Annotated[str | None, typer.Option(help="run directory; default: below runs/, named after the options")]
Run = Annotated[str, typer.Argument(help="run directory of a finished study")]


def fail(message: str, code: int) -> typer.Exit:
    """Says in one line of standard error what is wrong; raise what it returns."""
    typer.echo(f"lesion: {' '.join(message.split())}", err=True)
    return typer.Exit(code)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What the user can mend is one line and exit code 2; an interrupt says how to go on. Also a decorator."""
    try:
        yield
    except LesionError as error:
        raise fail(str(error), 2) from None
    except KeyboardInterrupt:
        raise fail(f"interrupted; to go on where this stopped: {command()}", 130) from None
    except OSError as error:
        raise fail(_of_the_system(error), 2) from None
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise fail(f"out of memory ({error}); a smaller --batch-size takes less. {GO_ON}", 2) from None


GO_ON = "What was measured is kept: the same command goes on"


def _of_the_system(error: OSError) -> str:
    """A full disk, a folder that cannot be written, a file server that is gone."""
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{error.strerror or error}; mend that, and run the same command again. {GO_ON}"


def _out_of_memory(error: Exception) -> bool:
    import torch

    # The allocator of the CPU raises no class of its own.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def command() -> str:
    """The command line, to be typed again."""
    return shlex.join(["lesion", *sys.argv[1:]])


def answer(as_json: bool, data: Callable[[], Any], show: Callable[[Console], None]) -> None:
    """Prints an answer.

    Args:
        as_json: Print JSON.
        data: Makes what JSON has, or its text.
        show: Prints the tables.
    """
    if as_json:
        made = data()
        typer.echo(made if isinstance(made, str) else json.dumps(made, indent=1))
        return
    from lesion.cli.plain import plain_console

    show(plain_console())


def quiet_libraries() -> None:
    """Loading bars and advice of the libraries underneath are not for lesion's users; errors still are."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
