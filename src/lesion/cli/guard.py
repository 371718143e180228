"""``lesion guard``: make, check, repair."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.cli.opened import Chosen, New, Top, opened
from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.progress import listener
from lesion.cli.terminal import Json, answer, quiet_libraries

if TYPE_CHECKING:
    from lesion.hooks.clean import Damage
    from lesion.models.vlm import VisionLanguageModel
    from lesion.remedies.guard import Guard
    from lesion.study.options import StudyOptions

File = Annotated[str, typer.Argument(metavar="GUARD", help="file that `lesion guard make` wrote")]
NewFile = Annotated[str, typer.Argument(metavar="GUARD", help="file for the guard (safetensors), which is not there yet")]
CHECKS = 100
"""So many checks are timed."""


@takes(*fields_of(ARGUMENT, "data", "prompt", "max_new_tokens", "seed", "force", *LOADING, samples=8))
def make(chosen: Chosen, guard: NewFile, top: Top = None, json: Json = False, **options: Any) -> None:
    """Store clean copies of critical weights with checksums, their ranges on clean data, and a constant a neuron."""
    quiet_libraries()
    from lesion.remedies.guard import Guard

    to = opened(chosen, guard, top, options)
    made = Guard.make(to.vlm, to.neurons, to.samples, to.options.prompt, to.options.max_new_tokens)
    made.save(guard)
    Guard.load(guard)
    weights, seconds = made.weights, _seconds_a_check(made, to.vlm)
    found = {
        "path": guard, "neurons": len(made.neurons), "lines": weights.lines, "entries": weights.entries,
        "bytes": weights.size, "seconds_a_check": seconds, "samples": len(to.samples),
    }  # fmt: skip
    line = (
        f"{guard}: {len(made.neurons):,} neurons, {weights.lines:,} rows and columns of {weights.entries:,} weights "
        f"({weights.size:,} bytes); a check took {1000 * seconds:.2g} ms"
    )
    answer(json, lambda: found, lambda console: console.print(line, soft_wrap=True, markup=False))


@takes(*fields_of(ARGUMENT, *LOADING))
def check(guard: File, json: Json = False, **options: Any) -> None:
    """Say which guarded weights of a checkpoint are not as they were. Exit code 1 where some are not."""
    quiet_libraries()
    from lesion.remedies.guard import Guard

    made = Guard.load(guard)
    damages = made.check(_loaded(made, options)[1].model)
    _show(json, made, damages, "damaged")
    if damages:
        raise typer.Exit(1)


@takes(*fields_of(ARGUMENT, "data", "prompt", "max_new_tokens", "seed", *LOADING, samples=4))
def repair(guard: File, out: New, json: Json = False, **options: Any) -> None:
    """Write a checkpoint in which damage to guarded weights is undone; it is loaded again and compared."""
    quiet_libraries()
    from lesion.data.samples import load_samples
    from lesion.remedies.checkpoint import Asked, check_free, write
    from lesion.remedies.guard import Guard
    from lesion.study.reading import as_read, with_data

    check_free(out)
    made = Guard.load(guard)
    asked, vlm = _loaded(made, options)
    damages = made.repair(vlm.model)
    asked = with_data(asked, vlm)
    samples = as_read(vlm, load_samples(asked.data, asked.samples, asked.seed, warn=listener().warn), asked.data)
    questions = Asked(samples, asked.prompt, asked.max_new_tokens)
    write(vlm, out, questions.of(vlm), questions, lambda *_: None)
    _show(json, made, damages, f"repaired, in {out}")


def _loaded(guard: Guard, options: dict[str, Any]) -> tuple[StudyOptions, VisionLanguageModel]:
    """The model, in the guard's dtype where none is named."""
    from lesion.study.options import StudyOptions
    from lesion.study.reading import loaded

    own = {**options, "dtype": guard.dtype} if options["dtype"] == "auto" else options
    asked = StudyOptions.parse(**own)
    return asked, loaded(asked, listener())


def _show(json: bool, guard: Guard, damages: list[Damage], what: str) -> None:
    found = {
        "lines": guard.weights.lines,
        "damages": [{**d.line._asdict(), "entries": d.entries} for d in damages],
    }
    lines = [f"{len(damages):,} of {guard.weights.lines:,} guarded rows and columns {what}", *map(str, damages)]

    answer(json, lambda: found, lambda console: console.print("\n".join(lines), soft_wrap=True, markup=False))


def _seconds_a_check(guard: Guard, vlm: VisionLanguageModel) -> float:
    bound = guard.weights.bound(vlm.model)
    bound.check()
    start = time.perf_counter()
    for _ in range(CHECKS):
        bound.check()
    return (time.perf_counter() - start) / CHECKS
