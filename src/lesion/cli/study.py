"""``lesion study``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.cli.executors import Address, Gpus, Kind, Replicas, executor_of
from lesion.cli.options import fields_of, takes
from lesion.cli.progress import LogJson, listener
from lesion.cli.terminal import Json, Out, answer, quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console


@takes(*fields_of())
def study(
    out: Out = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="make this stage and those behind it anew, such as curve")
    ] = None,
    json: Json = False,
    log_json: LogJson = None,
    executor: Kind = "serial",
    replicas: Replicas = 2,
    address: Address = None,
    gpus_per_replica: Gpus = None,
    **options: Any,
) -> None:
    """Find the critical neurons: score, rank, mask, find k*, and check it. Run again to resume."""
    quiet_libraries()
    from lesion.cli.show_plan import show_comparison
    from lesion.cli.show_study import show_result
    from lesion.planning.comparison import compare
    from lesion.report.html import write_report
    from lesion.study.study import Study

    pool = executor_of(executor, replicas, address, gpus_per_replica, options["threads"])
    result = Study(out=out, progress=listener(log_json), executor=pool, **options).run(start)
    write_report(result)

    def show(console: Console) -> None:
        show_result(result, console)
        compared = compare(result)  # a plan that cannot be read takes nobody's answer away
        if compared is not None:
            show_comparison(compared, console)

    answer(json, lambda: result.model_dump_json(indent=1), show)
