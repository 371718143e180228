"""``lesion paper``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lesion.cli.executors import Address, Gpus, Kind, Replicas, executor_of
from lesion.cli.models import Expect
from lesion.cli.options import LOADING, fields_of, takes
from lesion.cli.progress import LogJson, listener
from lesion.cli.terminal import quiet_libraries

Models = Annotated[
    list[str] | None, typer.Argument(help="as for study; default: tiny-llava and tiny-instructblip", metavar="[MODEL]...")
]


@takes(*fields_of(
    "data", "category", "criterion", "clip", "seed", "strict", *LOADING, "batch_size", "threads",
    planned=("prompt", "role", "samples", "controls", "split", "target", "max_k", "max_new_tokens"),
))  # fmt: skip
def paper(
    models: Models = None,
    out: Annotated[str | None, typer.Option(help="folder; default: below runs/, named after the options")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="every part, with few images and few variants")] = False,
    per_category: Annotated[int | None, typer.Option(help="images of each category; default: the plan's")] = None,
    expect: Expect = None,
    log_json: LogJson = None,
    executor: Kind = "serial",
    replicas: Replicas = 2,
    address: Address = None,
    gpus_per_replica: Gpus = None,
    **options: Any,
) -> None:
    """Run every experiment of the paper, and the checks that it lacks: tables, figures, one summary. Run again to resume."""
    quiet_libraries()
    from lesion.cli.plain import plain_console
    from lesion.cli.show_paper import show_paper
    from lesion.paper import paper as run
    from lesion.paper.run import MODELS

    options |= {"per_category": per_category, "expect": expect}
    options = {name: value for name, value in options.items() if value is not None}
    pool = executor_of(executor, replicas, address, gpus_per_replica, options["threads"])
    show_paper(run(models or MODELS, out, quick, listener(log_json), executor=pool, **options), plain_console())
