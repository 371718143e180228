"""``lesion plan``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lesion.cli.options import fields_of, takes
from lesion.cli.progress import listener
from lesion.cli.terminal import Json, Out, answer, quiet_libraries

SHOWN = (5, 1000)
"""k* that are shown where none is given: about those of the paper's two models."""


@takes(*fields_of())
def plan(
    out: Out = None,
    gpus: Annotated[int | None, typer.Option(help="that the study will have, for --executor ray or shards")] = None,
    gpus_per_replica: Annotated[int, typer.Option(help="that each replica will take")] = 1,
    replicas: Annotated[int | None, typer.Option(help="processes with a model each; default: as many as the GPUs hold")] = None,
    k_star: Annotated[list[int] | None, typer.Option(help="plan for a collapse at this k; may be given several times")] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Say what a study will take: a few passes of each kind are run here, and what its stages will ask for is added up."""
    quiet_libraries()
    from lesion.cli.show_plan import show_plan
    from lesion.planning.plan import plan as make
    from lesion.planning.plan import replicas_of

    count = replicas_of(gpus, gpus_per_replica, replicas)
    planned = make(out, count, None if gpus is None else gpus_per_replica, k_star or SHOWN, listener(), **options)
    planned.save()
    shown = [planned.case(k) for k in (*dict.fromkeys(min(k, planned.neurons) for k in k_star or SHOWN), None)]
    answer(json, lambda: planned.model_dump_json(indent=1), lambda console: show_plan(planned, shown, console))
