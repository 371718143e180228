"""The command line: parses, calls, prints. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from lesion.core.errors import LesionError

app = typer.Typer(
    help="Finds the neurons that a vision-language model cannot live without, and proves it.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip

Model = Annotated[str, typer.Argument(help="Embedded name (tiny-llava, tiny-instructblip), local folder or hub id.")]
Run = Annotated[str, typer.Argument(help="Run directory of a finished study.")]
DATA_HELP = "Folder (images, parquet, tar), FILE.jsonl, FILE.txt, coco:IMAGES:instances.json[:captions.json], hf:OWNER/NAME."
SCORER_HELP = "can, activation, gradient, taylor, wanda, superweight, perturbation or random."
Clip = Annotated[str, typer.Option(help="CLIP model for the CLIP score; none for none.")]
Out = Annotated[str | None, typer.Option(help="Run directory. Default: runs/, named after the options.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DeviceMap = Annotated[str | None, typer.Option(help="auto, balanced or sequential: over GPUs, CPU and disk (accelerate).")]
Quantization = Annotated[str, typer.Option(help="none, 8bit or 4bit (bitsandbytes).")]
BatchSize = Annotated[int, typer.Option(help="Images at a time; does not change the answer.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of tables.")]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is one line and exit code 2; an interrupt says how to go on."""
    try:
        yield
    except LesionError as error:
        typer.echo(f"lesion: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("lesion: interrupted; the same command goes on where this one stopped", err=True)
        raise typer.Exit(130) from None


@app.command()
def study(
    model: Model = "tiny-llava",
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "scenes",
    category: Annotated[str | None, typer.Option(help="Only images of this category.")] = None,
    prompt: Annotated[str, typer.Option(help="What the model is asked about each image.")] = "Describe this image in detail.",
    component: Annotated[str, typer.Option(help="vision, connector, qformer, language or all.")] = "language",
    role: Annotated[str, typer.Option(help="gate, up, hidden, down or all.")] = "gate",
    scorer: Annotated[str, typer.Option(help=SCORER_HELP)] = "can",
    alpha: Annotated[float, typer.Option(help="Exponent of the gradient in CAN, 0 to 1.")] = 1.0,
    aggregate: Annotated[str, typer.Option(help="Over tokens: mean, max, sum or last.")] = "mean",
    positions: Annotated[str, typer.Option(help="Tokens that count: all, image, prompt, answer or first.")] = "all",
    samples: Annotated[int, typer.Option(help="Number of images.")] = 32,
    split: Annotated[str, typer.Option(help="half: rank on one half, measure on the other; same: both on all.")] = "half",
    target: Annotated[str, typer.Option(help="answer: the intact model's own; reference: the data's text.")] = "answer",
    mask: Annotated[str, typer.Option(help="zero, mean or class-mean: what a masked neuron is set to.")] = "zero",
    max_k: Annotated[int | None, typer.Option(help="Largest number of neurons to mask. Default: all.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    controls: Annotated[int, typer.Option(help="Control sets of each kind.")] = 10,
    minimal_limit: Annotated[int, typer.Option(help="Largest k* for which a minimal set is sought.")] = 32,
    clip: Clip = "auto",
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Chooses samples and controls.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="An unreadable image stops the study.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    quantization: Quantization = "none",
    batch_size: BatchSize = 16,
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Find the critical neurons: score, rank, mask, find k*, and check it. Run again to resume."""
    options: dict[str, Any] = {
        "data": data, "category": category, "prompt": prompt, "component": component, "role": role, "scorer": scorer,
        "alpha": alpha, "aggregate": aggregate, "positions": positions, "samples": samples, "split": split, "target": target,
        "mask": mask, "max_k": max_k, "max_new_tokens": max_new_tokens, "controls": controls,
        "minimal_limit": minimal_limit, "clip": clip, "seed": seed, "strict": strict, "dtype": dtype, "device": device,
        "device_map": device_map, "quantization": quantization, "batch_size": batch_size,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    with _one_line_errors():
        _quiet_libraries()
        from rich.console import Console

        from lesion.cli.console import Bars
        from lesion.cli.console_runs import show_result
        from lesion.study.study import Study

        result = Study(model, out=out, progress=Bars(), **options).run()
        _print(json, lambda: result.model_dump_json(indent=1), lambda: show_result(result, Console()))


@app.command()
def sites(model: Model = "tiny-llava", json: Json = False) -> None:
    """List where a model's feed-forward neurons are: component, role, layers, width, neurons, reachable."""
    with _one_line_errors():
        _quiet_libraries()
        from rich.console import Console

        from lesion.cli.console import show_sites
        from lesion.models.loading import load_structure

        found = load_structure(model)
        _print(json, lambda: _to_json(found.table()), lambda: show_sites(found, Console()))


@app.command()
def doctor(
    model: Model = "tiny-llava",
    data: Annotated[str | None, typer.Option(help="As for study; one sample is used.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model is asked.")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    quantization: Quantization = "none",
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Check that lesion understands a model, by running it on one image. Exit code 1 where a check fails."""
    with _one_line_errors():
        _quiet_libraries()
        from rich.console import Console

        from lesion.cli.console import Bars, show_diagnosis
        from lesion.study.doctor import diagnose

        found = diagnose(
            model, data, prompt, Bars().warn, dtype=dtype, device=device, device_map=device_map, quantization=quantization,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        _print(json, lambda: _to_json(found.table()), lambda: show_diagnosis(found, Console()))
        if not found.healthy:
            raise typer.Exit(1)


@app.command("show")
def show_command(run: Run, json: Json = False) -> None:
    """Show a finished run: its answer, its curve, its critical neurons, and how sure they are."""
    with _one_line_errors():
        from rich.console import Console

        from lesion.cli.console_runs import show_run
        from lesion.study.result import Result

        result = Result.load(run)
        _print(json, lambda: result.model_dump_json(indent=1), lambda: show_run(result, Console()))


@app.command("diff")
def diff_command(first: Run, second: Run, json: Json = False) -> None:
    """Compare two finished runs: what was asked otherwise, what was found otherwise, which critical neurons they share."""
    with _one_line_errors():
        from rich.console import Console

        from lesion.cli.console_runs import show_difference
        from lesion.study.difference import diff

        found = diff(first, second)
        _print(json, lambda: _to_json(found.as_dict()), lambda: show_difference(found, Console()))


@app.command("try")
def try_command(
    model: Model,
    image: Annotated[str | None, typer.Argument(help="Image file; none for a model that reads text alone.")] = None,
    neurons: Annotated[str | None, typer.Option(help="Set of neurons to mask, such as a run's critical.json.")] = None,
    run: Annotated[str | None, typer.Option(help="Run directory: its critical set, or the first of its ranking.")] = None,
    top: Annotated[int | None, typer.Option(help="So many of the first of the run's ranking.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model is asked.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    quantization: Quantization = "none",
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Ask about one image with the model intact and with neurons masked; show both answers."""
    with _one_line_errors():
        _quiet_libraries()
        from rich.console import Console

        from lesion.cli.console_runs import show_trial
        from lesion.data.samples import Sample, load_image
        from lesion.models.loading import load
        from lesion.study.options import DEFAULT_PROMPT
        from lesion.study.trial import attempt, neurons_of

        sample = Sample("prompt", None) if image is None else load_image(image)
        vlm = load(model, dtype, device, trust_remote_code, device_map, quantization)
        found = attempt(vlm, sample, neurons_of(vlm, neurons, run, top), prompt or DEFAULT_PROMPT, max_new_tokens)
        _print(json, lambda: _to_json(found.as_dict()), lambda: show_trial(found, Console()))


@app.command("check-known")
def check_known(
    model: Model = "tiny-llava",
    expect: Annotated[str | None, typer.Option(help="Whose known coordinates. Default: by the model's name.")] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "scenes",
    samples: Annotated[int, typer.Option(help="Number of images.")] = 16,
    clip: Clip = "auto",
    out: Out = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    quantization: Quantization = "none",
    batch_size: BatchSize = 16,
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Mask the published coordinates of a model (or of its base) directly, and say what that does."""
    options: dict[str, Any] = {
        "data": data, "samples": samples, "clip": clip, "dtype": dtype, "device": device, "device_map": device_map,
        "quantization": quantization, "batch_size": batch_size, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    with _one_line_errors():
        _quiet_libraries()
        from rich.console import Console

        from lesion.cli.console import Bars, show_known
        from lesion.study.check_known import check_known as check

        found = check(model, expect, out, Bars(), **options)
        _print(json, lambda: found.model_dump_json(indent=1), lambda: show_known(found, Console()))


@app.command()
def paper(
    models: Annotated[
        list[str] | None, typer.Argument(help="As for study; default: tiny-llava and tiny-instructblip.", metavar="[MODEL]...")
    ] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "scenes",
    out: Annotated[str | None, typer.Option(help="Folder. Default: runs/, named after the options.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Every part, with few images and few variants.")] = False,
    prompt: Annotated[str | None, typer.Option(help="What the model is asked about each image.")] = None,
    role: Annotated[str | None, typer.Option(help="Language role on which methods are compared. Default: gate.")] = None,
    samples: Annotated[int | None, typer.Option(help="Number of images. Default: 32, quick 8.")] = None,
    per_category: Annotated[int | None, typer.Option(help="Images of each category. Default: 16, quick 4.")] = None,
    controls: Annotated[int | None, typer.Option(help="Control sets of each kind. Default: 10, quick 3.")] = None,
    split: Annotated[str | None, typer.Option(help="half: rank on one half, measure on the other; same: both on all.")] = None,
    target: Annotated[str | None, typer.Option(help="answer: the intact model's own; reference: the data's text.")] = None,
    max_k: Annotated[int | None, typer.Option(help="Largest number of neurons to mask. Default: all.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer. Default: 64, quick 32.")] = None,
    expect: Annotated[str | None, typer.Option(help="Whose known coordinates. Default: by the model's name.")] = None,
    clip: Clip = "auto",
    seed: Annotated[int, typer.Option(help="Chooses samples and controls.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="An unreadable image stops the run.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    quantization: Quantization = "none",
    batch_size: BatchSize = 16,
    trust_remote_code: Trust = False,
) -> None:
    """Run every experiment of the paper, and the checks that it lacks: tables, figures, one summary. Run again to resume."""
    chosen: dict[str, Any] = {
        "prompt": prompt, "role": role, "samples": samples, "per_category": per_category, "controls": controls,
        "split": split, "target": target, "max_k": max_k, "max_new_tokens": max_new_tokens, "expect": expect,
    }  # fmt: skip
    options: dict[str, Any] = {
        "data": data, "clip": clip, "seed": seed, "strict": strict, "dtype": dtype, "device": device,
        "device_map": device_map, "quantization": quantization, "batch_size": batch_size,
        "trust_remote_code": trust_remote_code,
        **{name: value for name, value in chosen.items() if value is not None},
    }  # fmt: skip
    with _one_line_errors():
        _quiet_libraries()
        from rich.console import Console

        from lesion.cli.console import Bars, show_paper
        from lesion.paper import paper as run
        from lesion.paper.run import MODELS

        show_paper(run(models or MODELS, out, quick, Bars(), **options), Console())


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run directories of finished studies.", metavar="RUN...")],
    out: Annotated[
        str | None, typer.Option(help="File. Default: report.html in the run; of several, comparison.html here.")
    ] = None,
) -> None:
    """Write the report of a study, or of several side by side: one HTML file that needs nothing else."""
    with _one_line_errors():
        from lesion.report.html import Run, default_file, write_report

        found = [Run.load(run) for run in runs]
        typer.echo(write_report(found, out or default_file(found)))


def _to_json(data: Any) -> str:
    import json

    return json.dumps(data, indent=1)


def _print(json: bool, text: Callable[[], str], table: Callable[[], None]) -> None:
    if json:
        typer.echo(text())
    else:
        table()


def _quiet_libraries() -> None:
    """Loading bars and advice of the libraries underneath are not for lesion's users; errors still are."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def main() -> None:
    """Entry point of the ``lesion`` command."""
    app()


if __name__ == "__main__":
    main()
