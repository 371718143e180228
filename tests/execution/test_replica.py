"""A replica does what the study's own process would, whatever is asked and in whatever order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesion import Study, load
from lesion.ablation.ground import Ground, request_dict, request_of
from lesion.ablation.units import Request
from lesion.core.errors import OptionError, RunError
from lesion.core.journal import Journal
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.packet import pack, unpack
from lesion.core.sites import Site, Sites
from lesion.data.samples import load_samples
from lesion.execution.shards import ShardsExecutor
from lesion.execution.work import work
from lesion.hooks.intervention import INTERVENTIONS, Intervention, Mean, Scale, Zero
from lesion.models.inputs import Answer
from lesion.paper import paper
from lesion.remedies.campaign import campaign
from lesion.remedies.guard import Guard
from lesion.study.options import StudyOptions
from lesion.study.replica import Replica
from lesion.study.spec import Spec
from tests.execution.common import OPTIONS, answer, check_same
from tests.remedies.test_harden import PROMPT, critical


class Backwards:
    """A replica in this process, which does the last task first."""

    replicas = 3

    @contextmanager
    def opened(self, spec: bytes, folder: Path) -> Iterator[None]:
        self._replica, self._shared, self.done = Replica(Spec.unpack(spec)), dict[str, bytes](), 0
        yield

    def share(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self._shared[name] = data
        return name

    def run(self, tasks: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        for number in reversed(range(len(tasks))):
            self.done += 1
            yield number, self._replica.do(tasks[number], lambda name: self._shared[name])


@pytest.mark.parametrize(
    "options",
    [
        {"mask": "class-mean", "mask_positions": "text"}, {"data": "scenes", "clip": "auto", "max_new_tokens": 12},
        {"component": "all", "role": "all", "batch_size": 3}, {"model": "tiny-instructblip", "max_k": 4},
        *(pytest.param(slow, marks=pytest.mark.slow) for slow in (
            {"mask": "mean"}, {"scorer": "random", "max_k": 6}, {"target": "reference"},
            {"scorer": "integrated-gradients", "ig_steps": 2}, {"scorer": "output-share", "role": "hidden"},
            {"search": "measured", "search_budget": 60, "shortlist": 24},
        )),
    ],
    ids=str,
)  # fmt: skip
def test_it_is_the_same_answer(tmp_path: Path, options: dict[str, Any]):
    asked, executor = OPTIONS | options, Backwards()
    Study(out=tmp_path / "serial", **asked).run()
    Study(out=tmp_path / "run", executor=executor, **asked).run()
    assert executor.done > 10
    check_same(tmp_path / "run", tmp_path / "serial")


def test_the_papers_experiments_too(tmp_path: Path):
    """Its categories have samples that the options do not name."""
    asked: dict[str, Any] = {"data": "questions", "max_new_tokens": 2, "clip": "none", "threads": "1", "controls": 1}
    asked["max_k"] = 3
    serial = paper(["tiny-llava"], tmp_path / "serial", quick=True, **asked)
    pooled = paper(["tiny-llava"], tmp_path / "run", quick=True, executor=Backwards(), **asked)
    assert pooled.cells == serial.cells and pooled.curves == serial.curves


@pytest.mark.parametrize("options", [{"where": "weights", "bit": 30}, {"where": "activations", "action": "zero"}], ids=str)
def test_faults_too(tmp_path: Path, options: dict[str, Any]):
    """With edits of weights, and a guard that each replica reads; the journal's lines are the same to the byte."""
    vlm = load("tiny-llava")
    critical(vlm).save(tmp_path / "set.json")
    Guard.make(vlm, critical(vlm), load_samples("scenes", 4), PROMPT, 4).save(tmp_path / "guard")
    asked: dict[str, Any] = {
        "samples": 2, "max_new_tokens": 4, "component": "language", "role": "all", "criterion": "perplexity", "count": 4,
        "at_once": 2, "guard": str(tmp_path / "guard"), **options,
    }  # fmt: skip
    executor, chosen = Backwards(), str(tmp_path / "set.json")
    serial = campaign(chosen, out=tmp_path / "serial", **asked)
    pooled = campaign(chosen, out=tmp_path / "pooled", executor=executor, **asked)
    assert executor.done >= 2 and pooled.model_copy(update={"run": serial.run}) == serial
    lines = [Journal(tmp_path / name / "faults.jsonl").read() for name in ("serial", "pooled")]
    assert lines[0] == lines[1] and len(lines[0]) == 1 + 4 * 4


def test_a_finished_study_asks_no_replica(tmp_path: Path, serial: Path):
    class Idle(Backwards):
        def run(self, tasks: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            raise AssertionError("it is all there")

    before = answer(serial)
    Study(out=serial, executor=Idle(), **OPTIONS).run()
    assert answer(serial) == before


# -- what goes to and fro --------------------------------------------------------------------------------------------------
def test_a_packet_keeps_what_is_in_it():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([], dtype=np.int64)}
    head, read = unpack(pack({"x": [1, None, "é", 0.1]}, arrays))
    assert head == {"x": [1, None, "é", 0.1]} and read.keys() == arrays.keys()
    assert all((read[name] == arrays[name]).all() and read[name].dtype == arrays[name].dtype for name in arrays)
    for data in (b"", b"x", pack({})[:-1] + b"", b"\0" * 20):
        if data != pack({}):
            with pytest.raises(ValueError, match="no packet"):
                unpack(data)


def test_a_ground_keeps_what_is_in_it():
    said = [Answer((1, 2), "a b")]
    ground = Ground(["x"], said, said, 4, 2, {"mean": {"s/gate": np.ones(3)}, "class-mean": {}}, True)
    read = Ground.unpack(ground.pack())
    assert (read.samples, read.intact, read.references, read.max_new_tokens, read.batch_size, read.alone) == (
        ["x"], said, said, 4, 2, True,
    )  # fmt: skip
    assert set(read.statistics) == {"mean", "class-mean"} and (read.statistics["mean"]["s/gate"] == 1).all()


SITE = Site("a.b", "language", "gate", 0, 8)


@pytest.mark.parametrize("act", [Zero(), Mean(positions="text"), Scale(factor=0.5, layers=frozenset({0, 2}))])
def test_a_request_keeps_what_is_in_it(act: Intervention):
    asked = Request(NeuronSet([Neuron(SITE, 3), Neuron(SITE, 7)]), act)
    read = request_of(request_dict(asked), Sites([SITE]))
    assert read.neurons == asked.neurons and read.intervention == act and read.intervention.id == act.id
    with pytest.raises(ValueError, match="no site"):
        request_of(request_dict(asked), Sites([]))


def test_an_intervention_of_ones_own_needs_a_name(monkeypatch: pytest.MonkeyPatch):
    class Own(Zero):
        pass

    with pytest.raises(OptionError, match="intervention Own is not registered"):
        Own().as_dict()
    with pytest.raises(OptionError, match="'none' is not registered here"):
        Intervention.from_dict({"name": "none", "positions": "all", "layers": None})
    assert Own.name in INTERVENTIONS


def test_a_folder_cannot_ask_a_worker_for_code(tmp_path: Path):
    """Whoever can write there would run what they like on the worker."""
    options = StudyOptions.parse(**OPTIONS, trust_remote_code=True)
    executor = ShardsExecutor(1)
    with executor.opened(Spec(options, {}, {}).pack(), tmp_path):

        def drive() -> None:
            with suppress(OSError):  # the folder goes with the context
                next(executor.run([b"x"]))

        driver = threading.Thread(target=drive)
        driver.start()
        with pytest.raises(RunError, match="asks to run code that comes with tiny-llava"):
            work(tmp_path, idle=5)
    driver.join()


def test_samples_that_the_options_do_not_name_are_carried(tmp_path: Path):
    more = load_samples("scenes", 2, seed=5)
    read = Spec.unpack(Spec(StudyOptions.parse(), {}, {}, more).pack())
    assert [s.digest for s in read.more] == [s.digest for s in more]
    with pytest.raises(RunError, match="sample scene-1 is another here"):
        Spec(StudyOptions.parse(), {}, {"scene-1": "0"}).check_samples({})
