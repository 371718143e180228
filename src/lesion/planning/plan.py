"""A :class:`Plan`: what a study will take, by stage, for each k* at which the model may turn out to collapse."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lesion.ablation.sweep import schedule
from lesion.core.errors import OptionError, RunError
from lesion.core.files import write_text
from lesion.core.progress import Progress, Silent
from lesion.data.samples import load_samples, split
from lesion.planning.calibrate import calibrate
from lesion.planning.costs import Costs
from lesion.planning.workload import Workload, workload_of
from lesion.study.options import StudyOptions
from lesion.study.place import place_for
from lesion.study.reading import loaded, with_data
from lesion.study.rundir import PLAN, RunDirectory
from lesion.study.session import Session


class StagePlan(BaseModel):
    """What a stage will take."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    passes: int = Field(description="samples that go through the model, each under one mask")
    seconds: float


class Case(BaseModel):
    """What a study will take if the model collapses at one k*."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    k_star: int | None = Field(description="None where no k collapses it")
    stages: dict[str, StagePlan] = Field(description="by name")
    disk: int = Field(description="bytes of the run directory")

    @property
    def passes(self) -> int:
        return sum(stage.passes for stage in self.stages.values())

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages.values())


class Plan(BaseModel):
    """What a study will take; kept in ``plan.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    run: str
    command: str
    neurons: int = Field(description="that are ranked")
    ranked: int = Field(description="samples")
    measured: int = Field(description="samples")
    replicas: int = Field(description="processes with a model each; 0 for the study's own alone")
    gpus_per_replica: float | None
    batch_size: int
    writing: int = Field(description="rows that are answered together")
    costs: Costs
    cases: list[Case] = Field(description="ascending in k*, at last that without a collapse")

    @property
    def memory(self) -> int:
        """Bytes of a replica: its weights, and what scoring or answering takes beside them, whichever is more."""
        return self.costs.weights + max(self.costs.scoring * self.batch_size, self.costs.answering * self.writing)

    def case(self, k_star: int | None) -> Case:
        """That of a k*, or of the next larger one that was planned."""
        if k_star is None:
            return self.cases[-1]
        return next((case for case in self.cases if case.k_star is not None and case.k_star >= k_star), self.cases[-1])

    def save(self) -> None:
        """Into the run directory, which the study will find."""
        path = Path(self.run) / PLAN
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.model_dump(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, run: str | Path) -> Plan | None:
        """Of a run directory; None where nobody planned it.

        Raises:
            RunError: It is there and is no plan.
        """
        path = Path(run) / PLAN
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError:
            raise RunError(f"{path} is no plan that this version of lesion reads; plan again, or delete it") from None


def plan(
    out: str | Path | None = None,
    replicas: int = 0,
    gpus_per_replica: float | None = None,
    k_stars: Iterable[int] = (),
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Runs a few passes of each kind on the study's own samples, and adds up what its stages will ask for.

    Args:
        out: The study's run directory; default: the study's.
        replicas: Processes with a model each; 0 for the study's own alone.
        gpus_per_replica: Noted.
        k_stars: Planned for beside those of the sweep's schedule.
        progress: Listens to the stages.
        **options: Of the study.

    Raises:
        OptionError: An option that makes no sense, or does not fit the model.
        ModelError, DataError: The model or the data cannot be loaded.
        RunError: ``out`` is no place for this run.
    """
    if replicas < 0:
        raise OptionError(f"replicas is {replicas}; expected at least 0")
    asked = StudyOptions.parse(**options)
    folder = place_for(out, asked, asked.component, asked.role)
    RunDirectory(folder).check(asked)
    start = time.perf_counter()
    vlm = loaded(asked, listener := progress or Silent())
    loading = time.perf_counter() - start
    asked = with_data(asked, vlm)
    samples = load_samples(asked.data, asked.samples, asked.seed, asked.strict, listener.warn, asked.category)
    ranked, measured = split(samples, asked.split)
    few = asked.model_copy(update={"samples": min(len(samples), 2 * asked.batch_size)})
    with tempfile.TemporaryDirectory() as away, Session.open(few, vlm, Path(away) / "run", listener) as session:
        costs = calibrate(session, loading)
        workload = workload_of(session, asked, (len(samples), len(ranked), len(measured)), replicas)
        neurons = session.sites.neurons
        ks = sorted({k for k in (*schedule(min(asked.max_k or neurons, neurons)), *k_stars) if 0 < k <= neurons})
        return Plan(
            model=asked.model, run=str(folder), command=asked.command(), neurons=neurons, ranked=len(ranked),
            measured=len(measured), replicas=replicas, gpus_per_replica=gpus_per_replica, batch_size=asked.batch_size,
            writing=min(workload.groupings[1].writing, len(measured) * workload.groupings[1].room), costs=costs,
            cases=[_case(workload, costs, k) for k in (*ks, None)],
        )  # fmt: skip


def _case(workload: Workload, costs: Costs, k_star: int | None) -> Case:
    stages, lines = {"loading": StagePlan(passes=0, seconds=costs.loading * (2 if workload.replicas else 1))}, 0
    for name, loads in workload.stages(k_star).items():
        seconds = sum(load.seconds(costs, workload.replicas) for load in loads)
        stages[name] = StagePlan(passes=sum(load.passes for load in loads), seconds=seconds)
        lines += sum(costs.line.get(part.kind, 0) * part.passes for load in loads for part in load.parts)
    return Case(k_star=k_star, stages=stages, disk=costs.importance + costs.ranking + lines)


def replicas_of(gpus: int | None, gpus_per_replica: int, replicas: int | None) -> int:
    """How many replicas there will be.

    Args:
        gpus: That there are; None where that was not said.
        gpus_per_replica: That each takes.
        replicas: As many as that, where it was said.

    Returns:
        0 for the study's own process alone.

    Raises:
        OptionError: A number that makes no sense, or more replicas than the GPUs hold.
    """
    if gpus_per_replica < 1:
        raise OptionError(f"gpus per replica is {gpus_per_replica}; expected at least 1")
    if gpus is None:
        return replicas or 0
    held = gpus // gpus_per_replica
    if not held or (replicas or 0) > held:
        raise OptionError(
            f"gpus is {gpus}, which hold {held} replicas of {gpus_per_replica}; expected at least as many as there are replicas"
        )
    return replicas or held
