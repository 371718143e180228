"""The command line: its commands, their help, and the one line that answers what cannot be read.

Each command parses, calls and prints; what is heavy is imported inside it, so that ``--help`` takes no time.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lesion.cli import guard as guards
from lesion.cli.certify import certify
from lesion.cli.checked import Debug, checked, debug_everywhere
from lesion.cli.executors import work
from lesion.cli.explain import explain
from lesion.cli.export import export
from lesion.cli.faults import faults
from lesion.cli.harden import harden
from lesion.cli.models import check_known, doctor, ranks, sites
from lesion.cli.paper import paper
from lesion.cli.plan import plan
from lesion.cli.runs import diff, report, show, try_
from lesion.cli.schema import schema
from lesion.cli.study import study
from lesion.cli.terminal import fail, one_line_errors
from lesion.models.threads import wait_briefly

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


app = typer.Typer(cls=OneLineErrors, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def lesion(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version, and do nothing else")] = False,
    debug: Debug = False,
) -> None:
    """Finds the neurons that a vision-language model cannot live without, and proves it."""
    wait_briefly()
    debug_everywhere(debug)
    if version:
        from lesion import __version__

        typer.echo(f"lesion {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


guard = typer.Typer(cls=OneLineErrors, help="Find and undo damage to critical weights: make, check, repair.")
app.add_typer(guard, name="guard")


for name, command in (("make", guards.make), ("check", guards.check), ("repair", guards.repair)):
    guard.command(name)(one_line_errors()(checked(command)))
for name, command in (
    ("study", study), ("sites", sites), ("doctor", doctor), ("show", show), ("diff", diff), ("try", try_),
    ("check-known", check_known), ("ranks", ranks),
    ("certify", certify), ("explain", explain), ("export", export), ("harden", harden),
    ("faults", faults), ("paper", paper), ("plan", plan),
    ("work", work), ("report", report), ("schema", schema),
):  # fmt: skip
    app.command(name)(one_line_errors()(checked(command)))


def main() -> None:
    """Entry point of the ``lesion`` command."""
    app()


if __name__ == "__main__":
    main()
