"""Commands about finished runs: show one, compare two, try its neurons on an image, write reports."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lesion.cli.options import ARGUMENT, LOADING, check_options, fields_of, takes
from lesion.cli.progress import listener
from lesion.cli.terminal import Json, Run, answer, quiet_libraries


def show(run: Run, json: Json = False) -> None:
    """Show a run: its answer, its curve, its critical neurons, and how sure they are; or how far it is."""
    from lesion.cli.show_study import show_run
    from lesion.cli.show_unfinished import show_unfinished
    from lesion.study.result import Result
    from lesion.study.unfinished import Unfinished, is_unfinished

    if is_unfinished(run):
        there = Unfinished.load(run)
        answer(json, lambda: there.model_dump_json(indent=1), lambda console: show_unfinished(there, console))
        return
    result = Result.load(run)
    answer(json, lambda: result.model_dump_json(indent=1), lambda console: show_run(result, console))


def diff(first: Run, second: Run, json: Json = False) -> None:
    """Compare two finished runs: options that differ, what each found, and which critical neurons they share."""
    from lesion.cli.show_runs import show_difference
    from lesion.study.difference import diff as compare

    difference = compare(first, second)
    answer(json, difference.as_dict, lambda console: show_difference(difference, console))


@takes(*fields_of(ARGUMENT, "prompt", "max_new_tokens", "force", *LOADING))
def try_(
    image: Annotated[str | None, typer.Argument(help="image file; none for a model that reads text alone")] = None,
    neurons: Annotated[str | None, typer.Option(help="set of neurons to mask, such as a run's critical.json")] = None,
    run: Annotated[str | None, typer.Option(help="run directory: its critical set, or the first of its ranking")] = None,
    top: Annotated[int | None, typer.Option(help="so many of the first of the run's ranking")] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Ask about one image with the model intact and with neurons masked; show both answers."""
    quiet_libraries()
    from lesion.cli.show_runs import show_trial
    from lesion.data.samples import Sample, load_image
    from lesion.models.loading import load
    from lesion.study.trial import attempt, neurons_of, read

    check_options(**{name: value for name, value in options.items() if name != "force"})
    sample = Sample("prompt", None) if image is None else load_image(image)
    read(neurons, run, top)  # what is wrong with it is said before the model is loaded
    vlm = load(options[ARGUMENT], **{name: options[name] for name in LOADING})
    members = neurons_of(vlm, neurons, run, top, options["force"], listener().warn)
    trial = attempt(vlm, sample, members, options["prompt"], options["max_new_tokens"])
    answer(json, trial.as_dict, lambda console: show_trial(trial, console))


def report(
    runs: Annotated[list[str], typer.Argument(help="run directories of finished studies", metavar="RUN...")],
    out: Annotated[
        str | None, typer.Option(help="file; default: report.html in the run, and of several, comparison.html here")
    ] = None,
) -> None:
    """Write the report of a study, or of several side by side: one HTML file that needs nothing else."""
    from lesion.report.html import write_report

    typer.echo(write_report(runs, out))
