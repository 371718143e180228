"""``lesion export``, and what it shares with ``lesion harden``: a model, a set of its neurons, and samples to compare on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.progress import listener
from lesion.cli.terminal import Json, answer, quiet_libraries

if TYPE_CHECKING:
    from lesion.core.neurons import NeuronSet
    from lesion.data.samples import Sample
    from lesion.models.vlm import VisionLanguageModel
    from lesion.study.options import StudyOptions
    from lesion.study.origin import Before

Chosen = Annotated[
    str, typer.Argument(metavar="NEURONS", help="set of neurons, such as a run's critical.json, or a run directory")
]
New = Annotated[str, typer.Argument(help="folder for the checkpoint, which is not there yet")]
Top = Annotated[int | None, typer.Option(help="so many of the first of the run's ranking")]


@dataclass(frozen=True)
class Opened:
    """What a checkpoint is made from."""

    options: StudyOptions
    vlm: VisionLanguageModel
    neurons: NeuronSet
    samples: list[Sample]
    found: Before | None
    """What the study found that the neurons are from; None where they are from a file."""


def opened(chosen: str, out: str, top: int | None, options: Mapping[str, Any]) -> Opened:
    """Loads what the command names; what is wrong with the words is said before the model is loaded."""
    from lesion.data.samples import load_samples
    from lesion.remedies.checkpoint import check_free
    from lesion.study.options import StudyOptions
    from lesion.study.reading import as_read, loaded, with_data
    from lesion.study.remedied import before_of
    from lesion.study.result import Result
    from lesion.study.rundir import RESULT
    from lesion.study.trial import neurons_of, read

    asked = StudyOptions.parse(**{name: value for name, value in options.items() if name != "force"})
    check_free(out)
    file, run = (None, chosen) if Path(chosen).is_dir() else (chosen, None)
    read(file, run, top)
    shown = listener()
    vlm = loaded(asked, shown)
    asked = with_data(asked, vlm)
    samples = as_read(vlm, load_samples(asked.data, asked.samples, asked.seed, warn=shown.warn), asked.data)
    neurons = neurons_of(vlm, file, run, top, options["force"], shown.warn)
    found = before_of(Result.load(run)) if run is not None and (Path(run) / RESULT).exists() else None
    return Opened(asked, vlm, neurons, samples, found)


@takes(*fields_of(
    ARGUMENT, "data", "prompt", "mask", "mask_positions", "max_new_tokens", "seed", "force", *LOADING, samples=8,
))  # fmt: skip
def export(chosen: Chosen, out: New, top: Top = None, json: Json = False, **options: Any) -> None:
    """Write the model with neurons masked for good, as a checkpoint that any tool loads; it is loaded again and compared."""
    quiet_libraries()
    from lesion.hooks.intervention import get_intervention
    from lesion.remedies.export import check_expressible
    from lesion.remedies.export import export as write

    act = get_intervention(options["mask"], options["mask_positions"])
    check_expressible(act)
    to = opened(chosen, out, top, options)
    about = to.samples, to.options.prompt, act, to.options.max_new_tokens, to.found
    written = write(to.vlm, to.neurons, out, *about)
    answer(json, written.as_dict, lambda console: console.print(str(written), soft_wrap=True, markup=False))
