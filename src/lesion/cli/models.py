"""Commands about a model itself: where its neurons are, whether lesion understands it, and what is known of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lesion.cli.options import ARGUMENT, LOADING, check_options, fields_of, takes
from lesion.cli.progress import LogJson, listener
from lesion.cli.terminal import Json, Out, answer, quiet_libraries

Neurons = Annotated[
    list[str] | None,
    typer.Option("--neuron", help="role:layer:index, such as down:11:507; again for more; default: those that papers name"),
]
Scorers = Annotated[list[str] | None, typer.Option("--scorer", help="again for more; default: all but integrated-gradients")]
Expect = Annotated[str | None, typer.Option(help="whose known coordinates; default: by the model's name")]


@takes(*fields_of(ARGUMENT, "trust_remote_code"))
def sites(json: Json = False, **options: Any) -> None:
    """List where a model's neurons are: component, role, layers, width, neurons, reachable."""
    quiet_libraries()
    from lesion.cli.show_models import show_sites
    from lesion.models.loading import load_structure

    structure = load_structure(options.pop(ARGUMENT), **options)
    answer(json, structure.table, lambda console: show_sites(structure, console))


@takes(*fields_of(ARGUMENT, "data", "prompt", *LOADING, data=None))
def doctor(json: Json = False, **options: Any) -> None:
    """Check that lesion understands a model, by running it on one image of --data, or else on an embedded scene.

    Exit code 1 where a check fails.
    """
    quiet_libraries()
    from lesion.cli.show_models import show_diagnosis
    from lesion.study.doctor import diagnose

    check_options(**{name: value for name, value in options.items() if value is not None})
    diagnosis = diagnose(options.pop(ARGUMENT), warn=listener().warn, **options)
    answer(json, diagnosis.table, lambda console: show_diagnosis(diagnosis, console))
    if not diagnosis.healthy:
        raise typer.Exit(1)


@takes(*fields_of(
    ARGUMENT, "data", "category", "prompt", "samples", "target", "mask", "mask_positions", "criterion", "max_new_tokens",
    "clip", "seed", "strict", *LOADING, "batch_size", "threads", samples=16,
))  # fmt: skip
def check_known(
    expect: Expect = None, out: Out = None, json: Json = False, log_json: LogJson = None, **options: Any
) -> None:
    """Mask the published coordinates of a model (or of its base) directly, and say what that does."""
    quiet_libraries()
    from lesion.cli.show_models import show_known
    from lesion.study.check_known import check_known as check

    checked = check(expect=expect, out=out, progress=listener(log_json), **options)
    answer(json, lambda: checked.model_dump_json(indent=1), lambda console: show_known(checked, console))


@takes(*fields_of(
    ARGUMENT, "data", "category", "prompt", "alpha", "aggregate", "positions", "noise", "ig_steps", "ig_path", "samples",
    "target", "max_new_tokens", "seed", "strict", *LOADING, "batch_size", "threads", samples=16,
))  # fmt: skip
def ranks(
    neuron: Neurons = None,
    neurons: Annotated[str | None, typer.Option(help="a set of neurons (JSON) instead")] = None,
    scorer: Scorers = None,
    out: Out = None,
    json: Json = False,
    log_json: LogJson = None,
    **options: Any,
) -> None:
    """Say which scorer sees a neuron: the rank that each gives neurons whose effect is known. Nothing is masked."""
    quiet_libraries()
    from lesion.cli.show_models import show_ranks
    from lesion.study.ranks import ranks as look_up

    found = look_up(neurons=neurons or neuron, scorers=scorer, out=out, progress=listener(log_json), **options)
    answer(json, lambda: found.model_dump_json(indent=1), lambda console: show_ranks(found, console))
