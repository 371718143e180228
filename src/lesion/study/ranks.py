"""Which scorer sees a neuron: the rank that each scorer gives neurons whose effect is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lesion.core.errors import OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.progress import Progress
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.scorers import get_scorer, rankers
from lesion.study import published, rundir
from lesion.study.importances import importances
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.options import StudyOptions
from lesion.study.own import read_set
from lesion.study.place import place_for
from lesion.study.session import Session

DEAR = ("integrated-gradients",)
"""Scorers that are only asked for by name: they take a pass for each step and site."""
_NEURON = re.compile(r"(?:(\w+)-)?(\w+):(\d{1,9}):(\d{1,9})")


class Rank(BaseModel):
    """The rank of one neuron by one scorer, among all neurons of its component and role."""

    neuron: NeuronEntry
    scorer: str
    rank: int
    of: int


class Ranks(BaseModel):
    """The answer: a row for each neuron and scorer."""

    model: str
    samples: int
    rows: list[Rank]
    run: str

    def table(self) -> list[dict[str, Any]]:
        """One row a scorer, one column a neuron."""
        scorers = dict.fromkeys(row.scorer for row in self.rows)
        return [{"scorer": s, **{str(r.neuron): r.rank for r in self.rows if r.scorer == s}} for s in scorers]


def ranks(
    model: str | VisionLanguageModel = "tiny-llava",
    neurons: NeuronSet | str | Path | Sequence[str] | None = None,
    scorers: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Ranks:
    """Scores a model and looks neurons up in every ranking; nothing is masked.

    Args:
        model: An embedded or packaged name, a local folder, a hub id, or a loaded model.
        neurons: A set, the file of one, or words such as ``down:11:507`` (role, layer, index; of the language model, or of
            another component as in ``vision-hidden:0:3``). Default: the known coordinates of the model.
        scorers: Names. Default: all but :data:`DEAR`.
        out: The run directory. Default: ``runs/`` and a name made from the options.
        progress: Listens to the stages.
        **options: See :class:`lesion.study.options.StudyOptions`; those of masks have no meaning here.

    Raises:
        OptionError: An unknown scorer, a neuron that cannot be read or is not in the model, or none is known.
        ModelError, DataError, RunError, NeuronSetError: As for :class:`lesion.study.study.Study`.
    """
    chosen = list(scorers) if scorers else [name for name in rankers() if name not in DEAR]
    for name in chosen:
        if not get_scorer(name).ranks:
            raise OptionError(f"scorer {name!r} gives no ranking; available: {', '.join(rankers())}")
    if isinstance(neurons, str | Path):
        neurons = read_set(Path(neurons))
    elif neurons is not None and not isinstance(neurons, NeuronSet):
        for text in neurons:
            _read(text)
    name = model if isinstance(model, str) else model.name
    study = StudyOptions.parse(model=name, component="all", role="all", split="same", **options)
    vlm = model if isinstance(model, VisionLanguageModel) else None
    folder = place_for(out, study, "ranks")
    opened = Session.open(
        study, vlm, folder, progress, ranks=False, judges=False, check=lambda v, *_: _asked(v, neurons)
    )
    with opened as session:
        rows = _rows(session, _asked(session.vlm, neurons), chosen)
        found = Ranks(model=name, samples=len(session.samples), rows=rows, run=str(session.run.path))
        session.run.write_json(rundir.RANKS, found.model_dump())
        return found


def _rows(session: Session, asked: NeuronSet, scorers: Sequence[str]) -> list[Rank]:
    rows: list[Rank] = []
    for component, role in dict.fromkeys((n.site.component, n.site.role) for n in asked):
        sites = session.vlm.sites.select(component, role, reachable_only=True)
        file = f"importance-{component}-{role}.safetensors"
        scored = importances(session, list(session.samples.values()), scorers, session.options.scoring(), file, sites)
        for name in scorers:
            ranking = Ranking(scored[name], sites)
            for neuron in asked:
                if (neuron.site.component, neuron.site.role) == (component, role):
                    rank = ranking.rank_of(neuron)
                    assert rank is not None  # its site is among them
                    rows.append(Rank(neuron=NeuronEntry.of(neuron), scorer=name, rank=rank + 1, of=len(ranking)))
    return rows


def _asked(vlm: VisionLanguageModel, neurons: NeuronSet | str | Path | Sequence[str] | None) -> NeuronSet:
    """The neurons, as the model's own."""
    if neurons is None:
        known = published.truth_of(vlm, None)
        if known is None:
            raise OptionError(f"nothing is known of {vlm.name}; name neurons, such as down:11:507, or a file of them")
        sets = [known.neurons(vlm.sites, role) for role in published.ROLES]
        return sets[0] | sets[1]
    if isinstance(neurons, str | Path):
        neurons = NeuronSet.load(neurons)
    if isinstance(neurons, NeuronSet):
        return neurons.fit(vlm.sites, vlm.identity())
    return NeuronSet(neuron_of(text, vlm.sites) for text in neurons)


def _read(text: str) -> re.Match[str]:
    read = _NEURON.fullmatch(text)
    if read is None:
        raise OptionError(f"neuron {text[:80]!r} cannot be read; expected role:layer:index, such as down:11:507")
    return read


def neuron_of(text: str, sites: Sites) -> Neuron:
    """A neuron from its words, such as ``down:11:507``.

    Raises:
        OptionError: They cannot be read, or there is no such neuron.
    """
    read = _read(text)
    component, role, layer, index = read[1] or "language", read[2], int(read[3]), int(read[4])
    for site in sites:
        if (site.component, site.role, site.layer) == (component, role, layer) and site.expert is None and site.reachable:
            if index < site.width:
                return Neuron(site, index)
            raise OptionError(f"neuron {text!r}: that site has {site.width} neurons")
    raise OptionError(f"neuron {text!r}: the model's {component} part has no reachable {role} site in layer {layer}")
