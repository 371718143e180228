"""What every command does: errors in one line, answers as tables or JSON, and progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.core.errors import LesionError

if TYPE_CHECKING:
    from rich.console import Console

    from lesion.core.progress import Advance

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
        raise fail("interrupted; the same command goes on where this one stopped", 130) from None


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
    from rich.console import Console

    show(Console())


def quiet_libraries() -> None:
    """Loading bars and advice of the libraries underneath are not for lesion's users; errors still are."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


class Bars:
    """Progress bars on standard error; none where that is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True) as bars:
            task = bars.add_task(escape(name), total=total)
            yield lambda steps: bars.advance(task, steps)

    def warn(self, line: str) -> None:
        from rich.markup import escape

        self._console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)
