"""Masks a model's known coordinates directly, without any ranking, and says what that does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lesion.ablation.measure import Ablation
from lesion.core.criterion import told
from lesion.core.errors import OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.progress import Progress
from lesion.core.sites import Role
from lesion.models.vlm import VisionLanguageModel
from lesion.study import published
from lesion.study.importances import importances
from lesion.study.measured import Metrics
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.options import StudyOptions
from lesion.study.place import place_for
from lesion.study.session import Session
from lesion.study.statistics import scorers_for


class KnownRow(BaseModel):
    """What masking the known neurons of one role does; ``collapsed`` by the study's criterion, None where it is undecided."""

    role: Role
    neurons: list[NeuronEntry]
    collapsed: bool | None
    metrics: Metrics
    evaluation: str


class KnownCheck(BaseModel):
    """The answer: the intact model's metrics, a row a role, and what was published of rows that were removed whole."""

    model: str
    known: str
    source: str
    published: list[str]
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
        expect: Which entry of :mod:`lesion.study.published` is meant; None to go by the model's names.
        out: The run directory. Default: ``runs/`` and a name made from the options.
        progress: Listens to the stages.
        **options: See :class:`lesion.study.options.StudyOptions`; those of the ranking have no meaning here.

    Raises:
        OptionError: Nothing is known of the model, or what is known does not fit it.
        ModelError, DataError, RunError: As for :class:`lesion.study.study.Study`.
    """
    name = model if isinstance(model, str) else model.name
    study = StudyOptions.parse(model=name, component="language", role="all", **options)
    expected = published.known(expect) if expect else None  # a wrong name is said before anything is loaded
    vlm = model if isinstance(model, VisionLanguageModel) else None
    by_name = expected or published.recognise(name)
    folder = place_for(out, study, "known", by_name.name if by_name else "")

    def fitted(vlm: VisionLanguageModel, *_: object) -> tuple[published.Known, dict[Role, NeuronSet]]:
        entry = by_name or published.recognise(*published.names_of(vlm))
        if entry is None:
            names = ", ".join(published.names())
            raise OptionError(f"nothing is known of {name}; if it derives from one of these, name it with --expect: {names}")
        sets = {role: entry.neurons(vlm.sites, role) for role in published.ROLES}
        return entry, {role: neurons for role, neurons in sets.items() if len(neurons)}

    with Session.open(study, vlm, folder, progress, ranks=False, check=fitted) as session:
        expected, sets = fitted(session.vlm)
        samples = list(session.samples.values())
        act = study.intervention()
        scorers = scorers_for(act)
        means = importances(session, samples, scorers, study.scoring()) if scorers else {}
        ablation = session.ablation(samples, act, means)
        with session.progress.stage("known coordinates", len(sets)) as advance:
            rows = mask_known(ablation, sets)
            advance(len(sets))
        return KnownCheck(
            model=name, known=expected.name, source=expected.source, published=expected.effects(),
            samples=len(samples), baseline=ablation.baseline.intact.metrics, rows=rows, run=str(session.run.path),
        )  # fmt: skip


def mask_known(ablation: Ablation, sets: Mapping[Role, NeuronSet]) -> list[KnownRow]:
    """What masking each of the sets does."""
    return [
        KnownRow(
            role=role, neurons=[NeuronEntry.of(n) for n in neurons], metrics=evaluation.metrics, evaluation=evaluation.key,
            collapsed=told(ablation.decide(evaluation)),
        )
        for (role, neurons), evaluation in zip(sets.items(), ablation.many(list(sets.values())), strict=True)
    ]  # fmt: skip
