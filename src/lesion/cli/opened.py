"""What commands about remedies name: a model, a set of its neurons, and samples to compare on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.cli.progress import listener

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
