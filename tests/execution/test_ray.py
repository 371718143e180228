"""A study by actors of Ray: the same answer, and nothing lost with an actor, a node or the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lesion import Study
from lesion.core.errors import OptionError, RunError
from lesion.core.executor import Executor
from lesion.core.progress import Silent
from tests.execution.common import OPTIONS, check_same, words
from tests.execution.deploying import command, run

ray: Any = pytest.importorskip("ray")
from lesion.execution.ray import TRIES, RayExecutor, Waiting, placed  # noqa: E402


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    """A Ray of this machine's own, which the studies of the tests share."""
    ray.init(num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Killer(Silent):
    """Does something at the beginning of a stage, once."""

    def __init__(self, stage: str, act: Any) -> None:
        self._stage, self._act = stage, act

    def stage(self, name: str, total: int | None) -> Any:
        if name == self._stage and self._act is not None:
            act, self._act = self._act, None
            act()
        return super().stage(name, total)


@pytest.mark.parametrize("replicas", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_it_is_the_same_answer(local: None, serial: Path, tmp_path: Path, replicas: int):
    Study(out=tmp_path / "run", executor=RayExecutor(replicas, threads=1), **OPTIONS).run()
    check_same(tmp_path / "run", serial)


def test_an_actor_that_is_killed_costs_nothing(local: None, serial: Path, tmp_path: Path):
    executor = RayExecutor(2, threads=1)
    killed: list[int] = []

    def kill() -> None:
        pid = ray.get(executor._actors[0].start.remote())
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    Study(out=tmp_path / "run", executor=executor, progress=Killer("masking the top k", kill), **OPTIONS).run()
    assert killed
    check_same(tmp_path / "run", serial)


def test_a_replica_begins_with_tasks_of_its_own():
    """So that what is asked again of the same samples comes to the replica that knows them."""
    waiting = Waiting(7, 2)
    assert [waiting.next(1) for _ in range(3)] == [(1, 1), (3, 1), (5, 1)]
    assert waiting.next(1) == (0, 1), "then it helps"
    waiting.again(0, 2)
    assert [waiting.next(0) for _ in range(4)] == [(0, 2), (2, 1), (4, 1), (6, 1)]
    assert not waiting and not Waiting(0, 3)


@pytest.mark.parametrize(
    ("gpus", "threads", "own"),
    [
        (0.0, None, {}), (0.0, 2, {"threads": "2"}), (0.5, None, {"device": "auto"}), (1.0, None, {"device": "auto"}),
        (2.0, 4, {"device": "auto", "device_map": "auto", "threads": "4"}),
    ],
)  # fmt: skip
def test_a_replica_is_on_its_own_gpus(gpus: float, threads: int | None, own: dict[str, str]):
    assert placed(gpus, threads) == own


def test_a_task_that_no_replica_can_do_is_said(local: None, tmp_path: Path):
    class Poisoned(RayExecutor):
        tried = 0

        def run(self, tasks: Any) -> Iterator[tuple[int, bytes]]:
            return super().run([b"poison"] if self.tried else tasks)

        def share(self, data: bytes) -> str:
            self.tried += 1
            return super().share(data)

    with pytest.raises(RunError, match=rf"a task failed on {TRIES} replicas, at last with: ValueError: no packet"):
        Study(out=tmp_path / "run", executor=Poisoned(1, threads=1), **OPTIONS).run()
    assert (tmp_path / "run" / "answers.json").exists() and not (tmp_path / "run" / "importance.safetensors").exists()


def test_another_model_is_refused(local: None, tmp_path: Path):
    """A replica loads the weights by the model's name, and says whose they are."""
    from lesion.models.loading import load

    vlm = load("tiny-llava")
    with torch.no_grad():
        next(vlm.model.parameters()).add_(0.5)
    with pytest.raises(RunError, match=r"the model here is .*, and the study's "):
        Study(vlm, out=tmp_path / "run", executor=RayExecutor(1, threads=1), **OPTIONS).run()


def test_a_node_that_is_lost_costs_nothing(serial: Path, tmp_path: Path):
    """Two nodes on this machine, one replica on each; there is no room for a third, and the study ends with one."""
    if ray.is_initialized():
        ray.shutdown()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        executor = RayExecutor(2, threads=1)

        def lose() -> None:
            cluster.remove_node(node, allow_graceful=False)

        Study(out=tmp_path / "run", executor=executor, progress=Killer("controls", lose), **OPTIONS).run()
    finally:
        ray.shutdown()
        cluster.shutdown()
    check_same(tmp_path / "run", serial)


def processes(name: str) -> int:
    """How many processes on this machine have something in their command line."""
    listed = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True)
    return sum(name in line for line in listed.stdout.splitlines())


def actors() -> int:
    """Processes of actors on this machine."""
    return processes("ray::_Actor")


def test_the_driver_is_killed_and_goes_on(serial: Path, tmp_path: Path):
    if ray.is_initialized():
        ray.shutdown()
    run = tmp_path / "run"
    command = [sys.executable, "-m", "lesion.cli", "study", *words(), "--out", str(run), "--executor", "ray", "--replicas", "2"]
    before = actors()
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 240
        while not (run / "evaluations.jsonl").exists() and time.monotonic() < end:
            assert driver.poll() is None, "it has not come to its end before"
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    kept = (run / "evaluations.jsonl").read_bytes()
    end = time.monotonic() + 60
    while actors() > before and time.monotonic() < end:
        time.sleep(0.5)
    assert actors() <= before, "no actor stays"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert (run / "evaluations.jsonl").read_bytes().startswith(kept.rpartition(b"\n")[0])
    check_same(run, serial)


def test_a_slurm_job_with_ray(tmp_path: Path, serial: Path):
    """``deploy/slurm-ray.sh`` on one node; ``srun`` and ``scontrol`` are stand-ins, ``ray symmetric-run`` is Ray's own."""
    if ray.is_initialized():
        ray.shutdown()
    end = time.monotonic() + 60
    while processes("gcs_server") and time.monotonic() < end:
        time.sleep(0.5)  # it starts its own Ray, and only where there is none
    bin = tmp_path / "bin"
    command(bin, "scontrol", "echo 127.0.0.1")
    command(bin, "srun", 'exec "$@"')
    run(
        "slurm-ray.sh", bin, *words(), "--out", str(tmp_path / "run"),
        SLURM_NNODES="1", SLURM_JOB_NODELIST="node[1]", PORT="6391",
    )  # fmt: skip
    check_same(tmp_path / "run", serial, without=["command", "options"])


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"needs Ray, which is not installed; pip install 'lesion\[ray\]'"):
        RayExecutor()


def test_nothing_else_imports_ray():
    code = "import sys, lesion, lesion.cli.app, lesion.execution.work; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_an_executor(local: None):
    executor: Executor = RayExecutor(3)
    assert executor.replicas == 3
    with pytest.raises(OptionError, match="replicas is 0"):
        RayExecutor(0)
    with pytest.raises(OptionError, match=r"gpus per replica is -1.0"):
        RayExecutor(gpus_per_replica=-1.0)
