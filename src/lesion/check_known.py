"""Masks a model's known coordinates directly, without any ranking, and says what that does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lesion import known
from lesion.bench import Bench, Measurement, as_read, load_clip, load_model
from lesion.data import load_samples
from lesion.errors import OptionError
from lesion.models.vlm import VisionLanguageModel
from lesion.neurons import NeuronSet
from lesion.options import StudyOptions
from lesion.progress import Progress, Silent
from lesion.result import Metrics, NeuronEntry
from lesion.rundir import RunDirectory, default_folder
from lesion.sites import Role


class KnownRow(BaseModel):
    """What masking the known neurons of one role does; ``collapsed`` by the same rule as in a study."""

    role: Role
    neurons: list[NeuronEntry]
    collapsed: bool
    metrics: Metrics
    evaluation: str


class KnownCheck(BaseModel):
    """The answer: the intact model's metrics, and a row a role."""

    model: str
    known: str
    source: str
    samples: int
    baseline: Metrics
    rows: list[KnownRow]
    run: str

    def table(self) -> list[dict[str, Any]]:
        """One row for the intact model and one a role."""
        intact = {"role": "(intact)", "neurons": 0, "collapsed": False, **self.baseline}
        return [intact] + [
            {"role": r.role, "neurons": len(r.neurons), "collapsed": r.collapsed, **r.metrics} for r in self.rows
        ]


def check_known(
    model: str | VisionLanguageModel = "tiny-llava",
    expect: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> KnownCheck:
    """Masks what is known to be critical in a model, or in the one that it derives from.

    Args:
        model: An embedded name, a local folder, a hub id, or a loaded model.
        expect: Which entry of :mod:`lesion.known` is meant; None to go by the model's names.
        out: The run directory. Default: ``runs/`` and a name made from the options.
        progress: Listens to the stages.
        **options: See :class:`lesion.options.StudyOptions`; those of the ranking have no meaning here.

    Raises:
        OptionError: Nothing is known of the model, or what is known does not fit it.
        ModelError, DataError, RunError: As for :class:`lesion.study.Study`.
    """
    progress = progress or Silent()
    name = model if isinstance(model, str) else model.name
    asked = StudyOptions.parse(model=name, component="language", role="all", **options)
    expected = known.known(expect) if expect else None  # a wrong name is said before anything is loaded
    samples = load_samples(asked.data, asked.samples, asked.seed, asked.strict, progress.warn, asked.category)
    vlm = load_model(asked, progress) if isinstance(model, str) else model
    expected = expected or known.recognise(name, *known.names_of(vlm))
    if expected is None:
        raise OptionError(f"nothing is known of {name}; if it derives from one of these, name it with --expect: {_listed()}")
    sets: dict[Role, NeuronSet] = {role: expected.neurons(vlm.sites, role) for role in known.ROLES}
    samples = as_read(vlm, samples, asked.data)
    clip = load_clip(asked, samples, progress, progress.warn)
    path = Path(out) if out is not None else default_folder(asked, "known", expected.name)
    with RunDirectory.open(path, asked) as run:
        bench = Bench(asked, vlm, samples, clip, run, progress, [])
        measure = bench.measuring(samples)
        rows = mask_known(measure, sets)
        return KnownCheck(
            model=name, known=expected.name, source=expected.source, samples=len(samples),
            baseline=measure.judge.intact.metrics, rows=rows, run=str(path),
        )  # fmt: skip


def mask_known(measure: Measurement, sets: Mapping[Role, NeuronSet]) -> list[KnownRow]:
    """What masking each of the sets does."""
    rows = []
    with measure.bench.progress.stage("known coordinates", len(sets)) as advance:
        for role, neurons in sets.items():
            point = measure(neurons)
            rows.append(KnownRow(
                role=role, neurons=[NeuronEntry(**n.as_dict()) for n in neurons],
                collapsed=measure.judge.collapsed(point), metrics=point.metrics, evaluation=measure.key(neurons),
            ))  # fmt: skip
            advance(1)
    return rows


def _listed() -> str:
    return ", ".join(known.names())
