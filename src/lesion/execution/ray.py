"""The replicas are actors of Ray: on this machine, or wherever a cluster has room for them."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lesion.core.errors import LesionError, OptionError, RunError
from lesion.study.replica import Replica
from lesion.study.spec import Spec

TRIES = 3
"""So many replicas try a task before it is given up."""
STARTING = 600
"""Seconds that a study without any replica waits for one."""
STORE = 256 * 2**20
"""Bytes of the object store of a Ray that is started here: grounds and sums of scores, and no weights."""


class RayExecutor:
    """Actors of Ray, each with a replica.

    Args:
        replicas: How many.
        address: Of a cluster, or ``auto`` for the one that this machine belongs to; default: a Ray of this machine's own.
        gpus_per_replica: May be a fraction; default: 1 where the cluster has GPUs, else 0.
        threads: Of each replica on the CPU; default: the study's option.

    Raises:
        OptionError: Ray is not installed, or a number makes no sense.
    """

    def __init__(
        self,
        replicas: int = 2,
        address: str | None = None,
        gpus_per_replica: float | None = None,
        threads: int | None = None,
    ) -> None:
        if replicas < 1:
            raise OptionError(f"replicas is {replicas}; expected at least 1")
        if gpus_per_replica is not None and gpus_per_replica < 0:
            raise OptionError(f"gpus per replica is {gpus_per_replica}; expected at least 0")
        self._ray = _ray()
        self._replicas, self._address, self._gpus, self._threads = replicas, address, gpus_per_replica, threads
        self._actors: list[Any] = []
        self._idle: deque[Any] = deque()
        self._starting: dict[Any, Any] = {}
        self._failures = 0
        self._shared: dict[str, Any] = {}
        self._spec: Any = None

    @property
    def replicas(self) -> int:
        return self._replicas

    @contextmanager
    def opened(self, spec: bytes, folder: Path) -> Iterator[None]:
        ray, mine = self._ray, not self._ray.is_initialized()
        if mine:
            self._connect()
        try:
            self._spec = ray.put(spec)
            self._actors = [self._actor() for _ in range(self._replicas)]
            self._starting = {actor.start.remote(): actor for actor in self._actors}
            yield
        finally:
            for actor in self._actors:
                with suppress(Exception):
                    ray.kill(actor)
            self._actors, self._shared, self._spec, self._failures = [], {}, None, 0
            self._idle.clear()
            self._starting.clear()
            if mine:
                ray.shutdown()

    def _connect(self) -> None:
        here = {} if self._address else {"object_store_memory": STORE, "include_dashboard": False}
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level="error", **here)
        except (ConnectionError, ValueError) as error:
            raise RunError(f"no Ray at {self._address}: {_line(error)}; start one, or leave --address out") from None

    def _actor(self) -> Any:
        gpus = self._gpus
        if gpus is None:
            gpus = 1.0 if self._ray.cluster_resources().get("GPU") else 0.0
        threads = {} if self._threads is None else {"OMP_NUM_THREADS": str(self._threads)}
        kind = self._ray.remote(num_cpus=self._threads or 1, num_gpus=gpus, max_restarts=0, runtime_env={"env_vars": threads})
        return kind(_Actor).remote(self._spec, placed(gpus, self._threads))

    def share(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()[:16]
        if name not in self._shared:
            self._shared[name] = self._ray.put(data)
        return name

    def run(self, tasks: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        waiting = Waiting(len(tasks), self._replicas)
        working: dict[Any, tuple[int, int, Any]] = {}

        def hand_out() -> None:
            while waiting and self._idle:
                actor = self._idle.popleft()
                number, tries = waiting.next(self._actors.index(actor))
                # The references stand in lists, so that an actor is sent only what it asks for.
                reference = actor.do.remote(tasks[number], {name: [ref] for name, ref in self._shared.items()})
                working[reference] = number, tries, actor

        while waiting or working:
            hand_out()
            done = self._wait([*working, *self._starting], only_starting=not working)
            if done in self._starting:
                self._begin(done)
                continue
            number, tries, actor = working.pop(done)
            try:
                data = self._get(done)
            except LostError as lost:
                if tries == TRIES:
                    raise RunError(
                        f"a task failed on {TRIES} replicas, at last with: {lost}; what was measured before is kept"
                    ) from None
                waiting.again(number, tries + 1)
                self._replace(actor)
                continue
            self._idle.append(actor)
            hand_out()  # before whoever asked makes something of the answer
            yield number, data

    def _wait(self, references: Sequence[Any], only_starting: bool) -> Any:
        """One that is done. Replicas that are being made may find no room, but one at least must."""
        found, _ = self._ray.wait(list(references), num_returns=1, timeout=STARTING if only_starting else None)
        if not found:
            raise RunError(f"all replicas were lost, and none could be made in {STARTING} s; what was measured before is kept")
        return found[0]

    def _replace(self, actor: Any) -> None:
        """Has an actor made in the place of one that is lost; it works once there was room for it, and its model is loaded."""
        with suppress(Exception):
            self._ray.kill(actor)
        new = self._actor()
        self._actors[self._actors.index(actor)] = new
        self._starting[new.start.remote()] = new

    def _begin(self, started: Any) -> None:
        actor = self._starting.pop(started)
        try:
            self._get(started)
        except LostError as lost:
            self._failures += 1
            if self._failures == TRIES:
                raise RunError(
                    f"{TRIES} replicas could not be made, the last: {lost}; what was measured before is kept"
                ) from None
            self._replace(actor)
            return
        self._idle.append(actor)

    def _get(self, reference: Any) -> Any:
        """What an actor gives; what it says is wrong is raised as it is."""
        from ray.exceptions import RayError, RayTaskError

        try:
            return self._ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, LesionError):
                raise error.cause from None
            raise LostError(_line(error.cause or error)) from None
        except RayError as error:
            raise LostError(_line(error)) from None


class Waiting:
    """Tasks that nobody works on, and how often each was tried.

    A replica begins with those whose number leaves its own as the rest: what is asked again of the same samples comes to the
    replica that knows what the intact model does with them.

    Args:
        count: Of tasks.
        replicas: That there are.
    """

    def __init__(self, count: int, replicas: int) -> None:
        self._queues = [deque((number, 1) for number in range(mine, count, replicas)) for mine in range(replicas)]

    def __bool__(self) -> bool:
        return any(self._queues)

    def next(self, mine: int) -> tuple[int, int]:
        """For one of the replicas: of its own, or of those who have most to do."""
        return (self._queues[mine] or max(self._queues, key=len)).popleft()

    def again(self, number: int, tries: int) -> None:
        """One that was lost: the next of those who have most to do."""
        max(self._queues, key=len).appendleft((number, tries))


def placed(gpus: float, threads: int | None) -> dict[str, str]:
    """Options of a replica's own: on its GPU, or spread over its GPUs, wherever the study's own process has its model."""
    own = {"device": "auto"} if gpus else {}
    if gpus > 1:
        own["device_map"] = "auto"
    return own if threads is None else {**own, "threads": str(threads)}


class LostError(Exception):
    """A replica could not do a task; another may."""


class _Actor:
    """A replica, in a process of Ray's."""

    def __init__(self, spec: bytes, own: dict[str, str]) -> None:
        self._spec, self._own = spec, own
        self._replica: Replica | None = None

    def start(self) -> int:
        """Loads the model; returns the number of the process."""
        if self._replica is None:
            self._replica = Replica(Spec.unpack(self._spec), **self._own)
        return os.getpid()

    def do(self, task: bytes, shared: dict[str, list[Any]]) -> bytes:
        """Does a task."""
        import ray

        self.start()
        assert self._replica is not None
        return self._replica.do(task, lambda name: ray.get(shared[name][0]))


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise OptionError("the executor ray needs Ray, which is not installed; pip install 'lesion[ray]'") from None
    return ray
