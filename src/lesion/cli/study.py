"""``lesion study``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lesion.cli.options import fields_of, takes
from lesion.cli.progress import LogJson, listener
from lesion.cli.terminal import Json, Out, answer, quiet_libraries


@takes(*fields_of())
def study(
    out: Out = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="make this stage and those behind it anew, such as curve")
    ] = None,
    json: Json = False,
    log_json: LogJson = None,
    **options: Any,
) -> None:
    """Find the critical neurons: score, rank, mask, find k*, and check it. Run again to resume."""
    quiet_libraries()
    from lesion.cli.show_study import show_result
    from lesion.report.html import write_report
    from lesion.study.study import Study

    result = Study(out=out, progress=listener(log_json), **options).run(start)
    write_report(result)
    answer(json, lambda: result.model_dump_json(indent=1), lambda console: show_result(result, console))
