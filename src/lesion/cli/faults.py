"""``lesion faults``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lesion.cli.executors import Address, Gpus, Kind, Replicas, executor_of
from lesion.cli.opened import Chosen, Top
from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.progress import LogJson, listener
from lesion.cli.terminal import Json, Out, answer, quiet_libraries

ACTIONS, FORMATS, POPULATIONS = "flip|stuck-at-0|stuck-at-1|zero", "fp32|fp16|bf16|int8", "critical|matched|everything"


@takes(*fields_of(
    ARGUMENT, "data", "prompt", "component", "role", "mask_positions", "criterion", "max_new_tokens", "seed", "force", *LOADING,
    "batch_size", "threads", samples=4, criterion="perplexity", component="language", role="all",
))  # fmt: skip
def faults(
    chosen: Chosen,
    top: Top = None,
    count: Annotated[int, typer.Option("--faults", help="so many in each population")] = 400,
    on: Annotated[
        list[str] | None, typer.Option(metavar=f"[{POPULATIONS}]", help="where they strike; again for more; default: all three")
    ] = None,
    where: Annotated[str, typer.Option("--in", metavar="[weights|activations]", help="what has the wrong bit")] = "weights",
    fault: Annotated[str, typer.Option(metavar=f"[{ACTIONS}]", help="what becomes of the bit")] = "flip",
    format: Annotated[str | None, typer.Option(metavar=f"[{FORMATS}]", help="of the numbers; default: the model's")] = None,
    bit: Annotated[int | None, typer.Option(help="which, from 0, the lowest of the mantissa; default: any")] = None,
    at_once: Annotated[int, typer.Option(help="so many at a time, in as many neurons")] = 1,
    guard: Annotated[str | None, typer.Option(help="a guard's file: the critical ones once more, with it")] = None,
    out: Out = None,
    json: Json = False,
    log_json: LogJson = None,
    executor: Kind = "serial",
    replicas: Replicas = 2,
    address: Address = None,
    gpus_per_replica: Gpus = None,
    **options: Any,
) -> None:
    """Put wrong bits into a model, one at a time, and count what becomes of it. Run again to resume."""
    quiet_libraries()
    from lesion.cli.show_faults import show_faults
    from lesion.remedies.campaign import campaign

    pool = executor_of(executor, replicas, address, gpus_per_replica, options["threads"])
    found = campaign(
        chosen, top=top, count=count, on=on, where=where, action=fault, format=format, bit=bit, at_once=at_once,
        guard=guard, out=out, progress=listener(log_json), executor=pool, **options,
    )  # fmt: skip
    answer(json, lambda: found.model_dump_json(indent=1), lambda console: show_faults(found, console))
