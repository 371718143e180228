"""``lesion export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.progress import listener
from lesion.cli.terminal import Json, answer, quiet_libraries


@takes(*fields_of(
    ARGUMENT, "data", "prompt", "mask", "mask_positions", "max_new_tokens", "seed", "force", *LOADING, samples=8,
))  # fmt: skip
def export(
    neurons: Annotated[str, typer.Argument(help="set of neurons, such as a run's critical.json, or a run directory")],
    out: Annotated[str, typer.Argument(help="folder for the checkpoint, which is not there yet")],
    top: Annotated[int | None, typer.Option(help="so many of the first of the run's ranking")] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Write the model with neurons masked for good, as a checkpoint that any tool loads; it is loaded again and compared."""
    quiet_libraries()
    from lesion.data.samples import load_samples
    from lesion.remedies.export import check_expressible, check_free
    from lesion.remedies.export import export as write
    from lesion.study.options import StudyOptions
    from lesion.study.reading import as_read, loaded, with_data
    from lesion.study.trial import neurons_of, read

    asked = StudyOptions.parse(**{name: value for name, value in options.items() if name != "force"})
    check_expressible(asked.intervention())
    check_free(out)
    file, run = (None, neurons) if Path(neurons).is_dir() else (neurons, None)
    read(file, run, top)  # what is wrong with it is said before the model is loaded
    shown = listener()
    vlm = loaded(asked, shown)
    asked = with_data(asked, vlm)
    samples = as_read(vlm, load_samples(asked.data, asked.samples, asked.seed, warn=shown.warn), asked.data)
    members = neurons_of(vlm, file, run, top, options["force"], shown.warn)
    written = write(vlm, members, out, samples, asked.prompt, asked.intervention(), asked.max_new_tokens)
    answer(json, written.as_dict, lambda console: console.print(str(written), soft_wrap=True, markup=False))
