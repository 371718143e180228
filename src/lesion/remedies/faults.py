"""``lesion faults``: wrong bits in a model, many times over, and what becomes of it.

Each fault is one wrong bit (or several at once), in a weight or in what passes through a neuron; the model is as it was before
the next. What was measured is in the run directory's ``faults.jsonl``, a line a trial, and a process that was killed goes on
with it. The answer is in ``faults.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from lesion.ablation.evaluator import Evaluator
from lesion.ablation.evaluators import evaluator_on
from lesion.core.errors import OptionError, RunError
from lesion.core.journal import Journal
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import perplexity, pool
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.fault_draw import Drawn, Draws, Kind, Population
from lesion.remedies.fault_outcome import Contrast, Outcome, Shares, grouped, outcome_of
from lesion.remedies.guard import Guard
from lesion.remedies.ranges import statistics
from lesion.study.rundir import FAULTS
from lesion.study.session import Session

FILE = "faults.jsonl"
FORMAT = "lesion-faults-1"
CHUNK = 32
"""So many faults are measured between two writes."""
GUARDED = "critical, guarded"
"""The critical neurons' faults once more, with a guard."""


class Faults(BaseModel):
    """What faults do to a model."""

    model: str
    neurons: int
    what: str = Field(description="the faults in words")
    criterion: str
    samples: int
    perplexity: float | None = Field(description="of the reference answers, with nothing wrong")
    populations: list[Shares]
    contrasts: list[Contrast]
    by_bit: dict[str, list[Shares]] = Field(description="population -> by bit")
    by_layer: dict[str, list[Shares]] = Field(description="population -> by layer")
    by_part: dict[str, list[Shares]] = Field(description="population -> by the projection that a weight is in, or by role")
    run: str


def faults(
    session: Session, neurons: NeuronSet, kind: Kind, count: int, populations: Sequence[Population], guard: str | None = None
) -> Faults:
    """Draws faults and measures what each does.

    Args:
        session: Open, with nothing ranked.
        neurons: The critical ones, of the session's model.
        kind: What faults do.
        count: So many in each population.
        populations: Where they strike.
        guard: A guard's file: the critical neurons' faults are measured with it too.

    Raises:
        OptionError: ``count`` is below 1, or the criterion does not look at the perplexity of the reference answers alone.
        ModelError: Weights are an expert's, offloaded or quantised; or the guard does not fit.
        RunError: The run directory holds other faults, or was measured with another guard.
    """
    if count < 1:
        raise OptionError(f"faults is {count}; expected at least 1")
    return _Work(session, neurons, kind, guard).run(count, populations)


def fitting(path: str, vlm: VisionLanguageModel, neurons: NeuronSet) -> Guard:
    """A guard that holds some neurons of a model.

    Raises:
        ModelError: No such file, no guard, or another model's.
        OptionError: It lacks some of the neurons.
    """
    guard = Guard.load(path)
    guard.weights.bound(vlm.model)
    missing = neurons - guard.neurons.fit(vlm.sites)
    if len(missing):
        raise OptionError(f"{path} does not guard {next(iter(missing))}; make one of the same neurons")
    return guard


class _Work:
    """Measures what is not in the journal yet."""

    def __init__(self, session: Session, neurons: NeuronSet, kind: Kind, guard: str | None) -> None:
        self._session, self._neurons, self._kind = session, neurons, kind
        # Other processes may stand in another folder.
        self._guard = None if guard is None else str(Path(guard).resolve())
        self._samples = list(session.samples.values())
        self._ablation = session.ablation(self._samples)
        self._baseline = self._ablation.baseline
        criterion = self._ablation.criterion
        if not criterion.early(self._baseline) or criterion.decide_early(self._baseline, self._intact) is None:
            raise OptionError(
                f"criterion {criterion.name!r} needs more than the perplexity of the reference answers, which is what is "
                "measured of a fault; take --criterion perplexity"
            )
        self._draws = Draws(session.vlm, neurons, list(session.sites), kind, session.options.seed)
        self._evaluator = self._evaluates()
        path = session.run.path / FILE
        self._journal, self._found = Journal(path), dict[tuple[str, int], dict[str, Any]]()
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        head = {
            "format": FORMAT, "model": session.identity.as_dict(), "neurons": neurons.digest, "kind": vars(kind),
            "seed": session.options.seed, "criterion": criterion.name, "samples": [s.id for s in self._samples],
        }  # fmt: skip
        self._open(path, head)

    @property
    def _intact(self) -> list[Any]:
        return [o.reference for o in self._baseline.intact.outcomes]

    def _open(self, path: Path, head: dict[str, Any]) -> None:
        lines = self._journal.read(mend=True)
        if not lines:
            self._journal.append([head])
        elif lines[0] != head:
            raise RunError(f"{path} is about other faults, another model or data; delete it, or give another --out")
        for line in lines[1:]:
            if self._guard is not None and line["arm"] == GUARDED and line.get("guard") != self._digest:
                raise RunError(f"{path} was measured with another guard; delete it, or give another --out")
            self._found[line["arm"], line["number"]] = line
            self._known[line["arm"], _told(line["faults"])] = {"nll": line["nll"], "outcome": line["outcome"]}

    def _evaluates(self) -> Evaluator:
        """On all samples; a guard's ranges are what its check needs."""
        session, ids = self._session, [s.id for s in self._samples]
        known, self._digest = {}, ""
        if self._guard is not None:
            known = statistics(fitting(self._guard, session.vlm, self._neurons).ranges, session.vlm.sites)
            self._digest = hashlib.sha256(Path(self._guard).read_bytes()).hexdigest()
        prompts, ground = [session.prompts[i] for i in ids], session.ground(ids, known)
        return evaluator_on(session.vlm, self._samples, prompts, ground, None, session.spent, session.executor)

    def run(self, count: int, populations: Sequence[Population]) -> Faults:
        """Every population, then the critical one with the guard."""
        arms: list[tuple[str, Population, str | None]] = [(name, name, None) for name in populations]
        if self._guard is not None:
            arms.append((GUARDED, "critical", self._guard))
        for arm, population, guard in arms:
            self._measure(arm, population, guard, count)
        answer = self._answer([arm for arm, _, _ in arms], count)
        self._session.run.write_json(FAULTS, answer.model_dump())
        return answer

    def _measure(self, arm: str, population: Population, guard: str | None, count: int) -> None:
        missing = [number for number in range(count) if (arm, number) not in self._found]
        with self._session.progress.stage(f"faults: {arm}", len(missing)) as advance:
            for at in range(0, len(missing), CHUNK):
                lines = list(self._lines(arm, population, guard, missing[at : at + CHUNK]))
                self._journal.append(lines)
                self._found |= {(arm, line["number"]): line for line in lines}
                advance(len(lines))

    def _lines(self, arm: str, population: Population, guard: str | None, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        drawn = {number: self._draws.draw(population, number) for number in numbers}
        # A trial that was drawn before is not measured again; of few neurons there may be few different ones.
        new = {key: number for number in reversed(numbers) if (key := (arm, _key(drawn[number]))) not in self._known}
        requests = [self._draws.request(drawn[number], guard) for number in new.values()]
        readings = {place: reading for group in self._evaluator.read(requests) for place, reading in group.items()}
        for place, key in enumerate(new):
            outcome = outcome_of(self._ablation.criterion, self._baseline, readings[place])
            self._known[key] = {"nll": pool(readings[place]).nll, "outcome": outcome}
        for number, trial in drawn.items():
            about = {"arm": arm, "number": number, "faults": [one.as_dict() for one in trial]}
            about |= {} if guard is None else {"guard": self._digest}
            yield {**about, **self._known[arm, _key(trial)]}

    def _answer(self, arms: Sequence[str], count: int) -> Faults:
        entries = {arm: [_places(self._found[arm, number]) for number in range(count)] for arm in arms}
        shares = {
            arm: Shares.of(arm, map(_outcome, lines), len({e["trial"] for e in lines})) for arm, lines in entries.items()
        }
        first, others = "critical", [arm for arm in arms if arm != "critical"]
        kind, session = self._kind, self._session
        which = "any bit" if kind.bit is None else f"bit {kind.bit}"
        where = f"{kind.where}, {kind.format}" + ("" if kind.action == "zero" else f", {which}")
        where += "" if kind.positions == "all" else f", at tokens: {kind.positions}"
        where += "" if kind.at_once == 1 else f", {kind.at_once} at once"
        return Faults(
            model=session.options.model, neurons=len(self._neurons), what=f"{kind.action} in {where}",
            criterion=str(self._ablation.criterion), samples=len(self._samples), perplexity=perplexity(pool(self._intact)),
            populations=list(shares.values()),
            contrasts=[Contrast.of(shares[first], shares[arm]) for arm in others if first in shares],
            by_bit={arm: grouped(lines, "bit") for arm, lines in entries.items() if kind.action != "zero"},
            by_layer={arm: grouped(lines, "layer") for arm, lines in entries.items()},
            by_part={arm: grouped(lines, "part") for arm, lines in entries.items()}, run=str(session.run.path),
        )  # fmt: skip


def _key(trial: Sequence[Drawn]) -> str:
    return _told([one.as_dict() for one in trial])


def _told(faults: Sequence[dict[str, Any]]) -> str:
    """The same for the same faults, in whichever order."""
    return json.dumps(sorted(json.dumps(fault, sort_keys=True) for fault in faults))


def _outcome(entry: dict[str, Any]) -> Outcome:
    return entry["outcome"]


def _places(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the journal, and what it is grouped by: None where its faults differ in that."""
    places = [(fault["bit"], *_place(fault)) for fault in line["faults"]]
    shared = [values[0] if len(set(values)) == 1 else None for values in zip(*places, strict=True)]
    return {**line, "trial": _told(line["faults"]), **dict(zip(("bit", "layer", "part"), shared, strict=True))}


def _place(fault: dict[str, Any]) -> tuple[int | None, str | None]:
    """The layer, and the projection or the role."""
    neuron, parameter = fault["neuron"], fault["parameter"]
    layer, role = (None, None) if neuron is None else (neuron["layer"], neuron["role"])
    if parameter is None:
        return layer, role
    return layer, parameter.split(".")[-2] if parameter.count(".") else parameter
