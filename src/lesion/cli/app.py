"""The command line: its commands, their help, and the one line that answers what cannot be read.

Each command parses, calls and prints; what is heavy is imported inside it, so that ``--help`` takes no time.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lesion.cli.certify import certify
from lesion.cli.checked import Debug, checked, debug_everywhere
from lesion.cli.executors import work
from lesion.cli.explain import explain
from lesion.cli.group import OneLineErrors
from lesion.cli.models import check_known, doctor, ranks, sites
from lesion.cli.paper import paper
from lesion.cli.plan import plan
from lesion.cli.remedies import GUARD, REMEDIES
from lesion.cli.runs import diff, report, show, try_
from lesion.cli.schema import schema
from lesion.cli.study import study
from lesion.cli.terminal import one_line_errors
from lesion.models.threads import wait_briefly

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


for name, command in GUARD.items():
    guard.command(name)(one_line_errors()(checked(command)))
for name, command in (
    ("study", study), ("sites", sites), ("doctor", doctor), ("show", show), ("diff", diff), ("try", try_),
    ("check-known", check_known), ("ranks", ranks),
    ("certify", certify), ("explain", explain), *REMEDIES.items(), ("paper", paper), ("plan", plan),
    ("work", work), ("report", report), ("schema", schema),
):  # fmt: skip
    app.command(name)(one_line_errors()(checked(command)))


def main() -> None:
    """Entry point of the ``lesion`` command."""
    app()


if __name__ == "__main__":
    main()
