"""Which processes compute: the options of ``study`` and ``paper``, and ``lesion work``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.cli.options import fields_of, takes
from lesion.cli.terminal import quiet_libraries

if TYPE_CHECKING:
    from lesion.core.executor import Executor

EXECUTORS = ("serial", "ray", "shards")
Kind = Annotated[
    str, typer.Option("--executor", help="who computes: serial (this process), ray (actors), or shards (lesion work RUN)")
]
Replicas = Annotated[int, typer.Option(help="processes with a model each, for --executor ray and shards")]
Address = Annotated[str | None, typer.Option(help="of a Ray cluster: auto or HOST:PORT; default: one on this machine")]
Gpus = Annotated[float | None, typer.Option(help="of each replica of Ray, or a fraction; default: 1 where there are GPUs")]


def executor_of(kind: str, replicas: int, address: str | None, gpus: float | None, threads: str) -> Executor | None:
    """From the options; None for this process.

    Raises:
        OptionError: No such executor, one that is not installed, or an option that it does not take.
    """
    from lesion.core.errors import OptionError

    if kind not in EXECUTORS:
        raise OptionError(f"executor {kind!r} is unknown; expected one of {', '.join(EXECUTORS)}")
    if kind != "ray" and (address is not None or gpus is not None):
        raise OptionError(f"executor {kind!r} takes neither --address nor --gpus-per-replica; they are for ray")
    if kind == "ray":
        from lesion.execution.ray import RayExecutor

        return RayExecutor(replicas, address, gpus, int(threads) if threads.isdigit() else None)
    if kind == "shards":
        from lesion.execution.shards import ShardsExecutor

        return ShardsExecutor(replicas)
    return None


@takes(*fields_of("device", "device_map", "threads", "trust_remote_code"))
def work(
    run: Annotated[str, typer.Argument(help="run directory of a study with --executor shards, on a shared file system")],
    shard: Annotated[str, typer.Option(help="which worker of how many, from 0")] = "0/1",
    idle: Annotated[float, typer.Option(help="seconds to wait for something to do")] = 600.0,
    **own: Any,
) -> None:
    """Compute for a study that another process drives, until it is done."""
    quiet_libraries()
    from lesion.execution.work import work as do

    count = do(run, shard, idle, **own)
    typer.echo(f"{count:,} tasks done")
