"""``lesion certify``."""

from __future__ import annotations

from typing import Annotated

import typer

from lesion.cli.progress import LogJson, listener
from lesion.cli.terminal import Json, Run, answer, quiet_libraries


def certify(
    run: Run,
    pairs: Annotated[
        int | None, typer.Option(metavar="WITHIN", help="mask the pairs of so many most harmful neurons as well")
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="say how long it would take, and stop")] = False,
    json: Json = False,
    log_json: LogJson = None,
) -> None:
    """Mask every single neuron of a study, and say what that proves. Run again to resume."""
    quiet_libraries()
    from lesion.cli.show_certified import show_certified
    from lesion.study.certify import certify as prove

    def estimated(words: str) -> bool:
        typer.echo(words, err=True)
        return not estimate

    found = prove(run, pairs, progress=listener(log_json), estimated=estimated)
    if found is not None:
        answer(json, lambda: found.model_dump_json(indent=1), lambda console: show_certified(found, console))
