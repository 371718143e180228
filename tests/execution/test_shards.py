"""A study by workers on a shared folder: the same answer, and nothing lost with a worker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lesion import Study, load
from lesion.core.errors import OptionError, RunError
from lesion.data.samples import load_samples
from lesion.execution import shards
from lesion.execution.shards import CLAIMS, DONE, FAILED, TASKS, TRIES, WORK, Claims, ShardsExecutor
from lesion.execution.work import parse_shard, work
from lesion.remedies.campaign import campaign
from lesion.remedies.faults import FILE, Faults
from lesion.remedies.guard import Guard
from lesion.study.rundir import FAULTS
from tests.execution.common import OPTIONS, check_same, lines
from tests.remedies.test_harden import PROMPT, critical


def worker(run: Path, shard: str, code: str = "") -> subprocess.Popen[bytes]:
    """``lesion work`` in a process; ``code`` runs before."""
    words = ["lesion", "work", str(run), "--shard", shard, "--threads", "1", "--idle", "60"]
    code = f"import sys; sys.argv = {words!r}\n{code}\nfrom lesion.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ended(workers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    for process in workers:
        process.communicate(timeout=120)
    return [process.returncode for process in workers]


def one_after_the_other(run: Path, codes: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """Runs the study with workers, of which each comes when the one before has ended."""
    workers: list[subprocess.Popen[bytes]] = []

    def follow() -> None:
        for number, code in enumerate(codes):
            if workers:
                workers[-1].wait(120)
            workers.append(worker(run, f"{number}/{len(codes)}", code))

    follower = threading.Thread(target=follow)
    follower.start()
    Study(out=run, executor=ShardsExecutor(len(codes)), **OPTIONS).run()
    follower.join()
    return workers


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_give_the_same_answer(serial: Path, tmp_path: Path, count: int):
    run = tmp_path / "run"
    workers = [worker(run, f"{i}/{count}") for i in range(count)]
    Study(out=run, executor=ShardsExecutor(count), **OPTIONS).run()
    assert ended(workers) == [0] * count, "they end with the study"
    check_same(run, serial)
    assert not (run / WORK).exists(), "nothing is left behind"


def test_faults_are_measured_by_workers(tmp_path: Path):
    """Wrong weights too, with a guard's file that they read; the same trials as in one process, and workers end with them."""
    vlm = load("tiny-llava")
    critical(vlm).save(tmp_path / "set.json")
    Guard.make(vlm, critical(vlm), load_samples("scenes", 2), PROMPT, 4).save(tmp_path / "guard")
    asked: dict[str, Any] = {
        "count": 3, "samples": 2, "criterion": "perplexity", "max_new_tokens": 4, "threads": "1",
        "guard": str(tmp_path / "guard"), "on": ["critical"],
    }  # fmt: skip
    alone = campaign(str(tmp_path / "set.json"), vlm, out=tmp_path / "alone", **asked)
    workers = [worker(tmp_path / "run", "0/1")]
    found = campaign(str(tmp_path / "set.json"), out=tmp_path / "run", executor=ShardsExecutor(1), **asked)
    assert ended(workers) == [0]
    assert (tmp_path / "run" / FILE).read_bytes() == (tmp_path / "alone" / FILE).read_bytes()
    assert found.model_copy(update={"run": ""}) == alone.model_copy(update={"run": ""})
    assert Faults.model_validate_json((tmp_path / "run" / FAULTS).read_bytes()) == found


def test_a_worker_that_is_killed_costs_nothing(serial: Path, tmp_path: Path):
    """One dies in the midst of its third task, whose claim the other takes over, which comes then."""
    run = tmp_path / "run"
    expires = "import lesion.execution.shards as s, lesion.execution.work as w; s.EXPIRES, w.BEAT = 3.0, 0.5"
    dies = """
import os
from lesion.study.replica import Replica
do, done = Replica.do, []
def dying(self, task, ground):
    done.append(1)
    if len(done) == 3:
        os._exit(9)
    return do(self, task, ground)
Replica.do = dying
"""
    workers = one_after_the_other(run, [expires + dies, expires])
    assert ended(workers) == [9, 0]
    check_same(run, serial)


def test_a_study_that_is_killed_goes_on_with_the_same_workers(serial: Path, tmp_path: Path):
    run = tmp_path / "run"
    code = f"""
from lesion import Study
from lesion.execution.shards import ShardsExecutor
Study(out={str(run)!r}, executor=ShardsExecutor(2), **{OPTIONS!r}).run()
"""
    workers = [worker(run, f"{i}/2") for i in range(2)]
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (run / "evaluations.jsonl").exists() and time.monotonic() < end:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    kept = lines(run).keys() if (run / "evaluations.jsonl").read_bytes().endswith(b"\n") else set()
    Study(out=run, executor=ShardsExecutor(2), **OPTIONS).run()
    assert ended(workers) == [0, 0]
    assert kept <= lines(run).keys()
    check_same(run, serial)


def opened(tmp_path: Path) -> Any:
    executor = ShardsExecutor(1)
    return executor, executor.opened(b"spec", tmp_path)


def test_one_alone_claims_a_task(tmp_path: Path):
    executor, context = opened(tmp_path)
    with context:
        folder = executor._folder
        for i in range(40):
            (folder / TASKS / f"{i:08d}").write_bytes(b"")
        taken: list[str] = []

        def take(mine: int) -> None:
            claims = Claims(folder, mine, 4)
            while (name := claims.take()) is not None:
                taken.append(name)

        threads = [threading.Thread(target=take, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == [f"{i:08d}" for i in range(40)]


def test_a_claim_that_nobody_touches_is_taken_over(tmp_path: Path):
    executor, context = opened(tmp_path)
    with context:
        folder = executor._folder
        (folder / TASKS / "00000000").write_bytes(b"")
        first, second = Claims(folder, 0, 2), Claims(folder, 1, 2)
        assert first.take() == "00000000" and second.take() is None
        old = time.time() - shards.EXPIRES - 1
        os.utime(folder / CLAIMS / "00000000", (old, old))
        assert second.take() == "00000000" and first.take() is None
        assert len(list((folder / FAILED).iterdir())) == 1
        second.touch("00000000")
        second.done("00000000", b"data")
        assert (folder / DONE / "00000000").read_bytes() == b"data"


def test_a_task_that_no_worker_can_do_is_said(tmp_path: Path):
    executor, context = opened(tmp_path)
    with context:
        found = executor.run([b"poison"])

        def fail() -> None:
            claims, failed = Claims(executor._folder, 0, 1), 0
            while failed < TRIES:
                if (name := claims.take()) is not None:
                    claims.failed(name, "ValueError: no packet")
                    failed += 1

        thread = threading.Thread(target=fail)
        thread.start()
        with pytest.raises(RunError, match=rf"a task failed on {TRIES} workers, at last with: ValueError: no packet"):
            next(found)
        thread.join()


def test_a_worker_of_another_version_is_refused(tmp_path: Path, serial: Path):
    """It gives the task back, says what differs and ends; the others go on."""
    run = tmp_path / "run"
    older = """
import lesion.study.manifest as m
m._version = lambda package: "0.0" if package == "transformers" else m.version(package)
"""
    workers = one_after_the_other(run, [older, ""])
    said = [process.communicate(timeout=120)[1].decode() for process in workers]
    assert [process.returncode for process in workers] == [2, 0]
    assert "transformers is 0.0 here and " in said[0]
    check_same(run, serial)


def test_a_worker_without_a_study_ends(tmp_path: Path):
    with pytest.raises(RunError, match="had nothing to do for 0 s; is its study running, with --executor shards"):
        work(tmp_path / "none", idle=0.2)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/0"])
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(OptionError, match="expected I/N"):
        parse_shard(text)
    with pytest.raises(OptionError, match="shards is 0"):
        ShardsExecutor(0)
