"""Measures the :class:`~lesion.planning.costs.Costs` of a study's passes, by running a few of each on its own samples."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lesion.ablation.measure import Ablation
from lesion.ablation.units import Grouping, Request
from lesion.core.importance import Importance, encode
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.models import memory
from lesion.models.inputs import Prompt
from lesion.planning.costs import Costs, Kind, Line
from lesion.scoring.score import score
from lesion.scoring.scorers import get_scorer
from lesion.study.importances import rankable, scored_sites, study_scorers
from lesion.study.rundir import EVALUATIONS, RANKING, RunDirectory
from lesion.study.session import Session

ALONE = 3
"""Samples that are answered about one by one."""
FEW = 5
"""Neurons of a mask that leaves the model standing, in all likelihood: they are drawn at random."""


@dataclass
class _Watch:
    """Adds up passes and seconds."""

    passes: int = 0
    seconds: float = 0.0

    def __call__(self, passes: int, act: Callable[[], Any]) -> tuple[Any, float]:
        """What something gives, and how long it took."""
        start = time.perf_counter()
        found = act()
        taken = time.perf_counter() - start
        self.passes += passes
        self.seconds += taken
        return found, taken


class _Timed:
    """Replies, of whose time it keeps account."""

    def __init__(self, replies: Any) -> None:
        self._replies, self.seconds, self.room = replies, 0.0, replies.room

    def __call__(self, requests: Sequence[Request], apart: bool = False) -> Iterator[Any]:
        yield from self._each(self._replies(requests, apart))

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[Any]:
        yield from self._each(self._replies.read(requests, hold))

    def _each(self, found: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            group = next(found, None)
            self.seconds += time.perf_counter() - start
            if group is None:
                return
            yield group


def calibrate(session: Session, loading: float) -> Costs:
    """Runs a few passes of each kind, on one batch of a session's samples.

    Args:
        session: Open, in a folder that is thrown away.
        loading: Seconds that loading the model took.
    """
    import torch

    vlm, options, watch = session.vlm, session.options, _Watch()
    ranked, measured = (samples[: options.batch_size] for samples in (session.ranked, session.measured))
    prompts = [session.prompts[s.id] for s in ranked]

    def answer(prompts: Sequence[Prompt]) -> float:
        return watch(len(prompts), lambda: vlm.generate(vlm.embed(prompts), options.max_new_tokens))[1]

    answer(prompts[:1])  # what is made once is made now
    answering, targets = min(answer(prompts), answer(prompts)), [session.targets[s.id] for s in ranked]
    names = [name for name in study_scorers(options) if get_scorer(name).everywhere]

    def scored() -> dict[str, Importance]:
        batches = vlm.batches(prompts, targets, options.batch_size)
        return score(vlm.model, scored_sites(session), batches, names, options.scoring())

    graph = memory.Graph(vlm.model)
    with graph:
        importances, _ = watch(len(ranked), scored)
    _, scoring = watch(len(ranked), scored)  # without counting bytes
    timer = _Timer(session.ablation(measured, importances=importances), watch, len(measured))
    alone = session.ablation(measured[:ALONE], importances=importances, alone=True)
    masked = _masked(session, timer, _Timer(alone, watch, len(measured[:ALONE])))
    tokens = max(p.inputs["input_ids"].shape[1] for p in prompts) + options.max_new_tokens
    return Costs(
        device=_name(vlm.device), threads=torch.get_num_threads(), loading=loading,
        tasks={
            "answer": Line(task=0.0, one=answering / len(ranked)), "score": Line(task=0.0, one=scoring / len(ranked)),
            **{kind: line for kind, (line, _, _) in masked.items()},
        },
        handling={kind: handling for kind, (_, handling, _) in masked.items()},
        line={kind: size for kind, (_, _, size) in masked.items()},
        weights=memory.weights(vlm.model), scoring=graph.size // len(ranked),
        answering=memory.generation(vlm.model, tokens, options.max_new_tokens), importance=len(encode(importances)),
        ranking=_size_of_ranking(importances, session.sites), passes=watch.passes, seconds=watch.seconds,
    )  # fmt: skip


def _size_of_ranking(importances: Mapping[str, Importance], sites: Sites) -> int:
    """Bytes of ``ranking.csv``."""
    kept = rankable(importances)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RANKING
        Ranking(next(iter(kept.values())), sites).save(path, kept)
        return path.stat().st_size


def _masked(session: Session, timer: _Timer, alone: _Timer) -> dict[Kind, tuple[Line, float, int]]:
    """Of passes under a mask: seconds of a task, seconds of handling a pass, and bytes of its line."""
    options = session.options
    prompts = [session.prompts[s.id] for s in session.measured]
    grouping = Grouping(session.vlm, prompts, options.max_new_tokens, options.batch_size)
    reading, writing = (max(rows // timer.samples, 1) for rows in (grouping.reading, grouping.writing))
    [random] = score(session.vlm.model, session.sites, (), ["random"], options.scoring()).values()
    ranking = Ranking(random, session.sites)
    width = max(1, min(FEW, len(ranking) // writing))
    sets = [ranking[i * width : (i + 1) * width] for i in range(writing)]
    everything = [ranking[i:] for i in range(writing)]
    timer.read(sets[:1])  # what is made once is made now
    return {
        "read": timer.line(timer.read, sets[:reading]),
        "write": timer.line(timer.write, sets),
        "babble": timer.line(timer.write, everything),
        # The intact model, k*, and the k before it, whose answers may be others already.
        "alone": alone.mean([sets[0], *everything[:2]]),
    }


class Taken(NamedTuple):
    """What masking some sets took.

    Attributes:
        compute: Seconds of the model.
        handling: Seconds of what is made of its answers, and of writing it.
        size: Bytes of its lines.
    """

    compute: float
    handling: float
    size: int


@dataclass(frozen=True)
class _Timer:
    """Has sets masked, and keeps account of the time of the model and of what is made of its answers."""

    ablation: Ablation
    watch: _Watch
    samples: int

    def __post_init__(self) -> None:
        replies: Any = _Timed(self.ablation.evaluator.replies)
        self.ablation.evaluator.replies = replies

    def line(self, ask: Callable[[Sequence[NeuronSet]], Taken], sets: Sequence[NeuronSet]) -> tuple[Line, float, int]:
        """From a task of one set, and one of as many as go together; of each the faster of two, which others disturbed less."""
        few, most = (min(ask(part), ask(part)) for part in (sets[:1], sets))
        passes = len(sets) * self.samples
        line = Line.through((self.samples, few.compute), (passes, most.compute))
        return line, most.handling / passes, math.ceil(most.size / passes)

    def mean(self, sets: Sequence[NeuronSet]) -> tuple[Line, float, int]:
        """From some sets together, each pass of which is a task; with what is made once for all of them."""
        found, passes = self.write(sets), len(sets) * self.samples
        return Line(task=0.0, one=found.compute / passes), found.handling / passes, math.ceil(found.size / passes)

    def read(self, sets: Sequence[NeuronSet]) -> Taken:
        """Reads reference answers."""

        def act(run: RunDirectory) -> None:
            for group in self.ablation.evaluator.read(self._requests(sets)):
                run.add_readings([(f"{place:024d}", len(sets[place]), found) for place, found in group.items()])

        return self._taken(len(sets), act)

    def write(self, sets: Sequence[NeuronSet]) -> Taken:
        """Reads and answers."""
        about = {"kind": "mask", "digest": "0" * 16, "mask": self.ablation.intervention.id}

        def act(run: RunDirectory) -> None:
            for group in self.ablation.evaluator.stream(self._requests(sets)):
                run.add_evaluations([(f"{p:024d}", {**about, "neurons": found.k}, found) for p, found in group.items()])

        return self._taken(len(sets), act)

    def _requests(self, sets: Sequence[NeuronSet]) -> list[Request]:
        return [Request(neurons, self.ablation.intervention) for neurons in sets]

    def _taken(self, sets: int, act: Callable[[RunDirectory], None]) -> Taken:
        replies: Any = self.ablation.evaluator.replies
        before = replies.seconds
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory(Path(folder))
            _, whole = self.watch(sets * self.samples, lambda: act(run))
            size = (run.path / EVALUATIONS).stat().st_size
        compute = replies.seconds - before
        return Taken(compute, whole - compute, size)


def _name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
