"""An :class:`Executor` has other processes compute what a study asks, each with a replica of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Executor(Protocol):
    """Other processes, each with the same model. What they are given, and what they give back, is bytes.

    Whoever asks writes down what comes back; nobody else does. So nothing that was measured is measured again.
    """

    @property
    def replicas(self) -> int:
        """How many tasks are worked on at a time."""
        ...

    def opened(self, spec: bytes, folder: Path) -> AbstractContextManager[None]:
        """Has the replicas made, and ends them with the context.

        Args:
            spec: What a replica must be (:class:`lesion.study.spec.Spec`).
            folder: The run directory.

        Raises:
            RunError: A replica cannot be made, or would be another model.
        """
        ...

    def share(self, data: bytes) -> str:
        """Hands all replicas what many tasks need.

        Returns:
            Its name, by which tasks ask for it.
        """
        ...

    def run(self, tasks: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """Has each task done, and again elsewhere where a replica is lost.

        Yields:
            A task's place and what came of it, as soon as it is there.

        Raises:
            RunError: A task failed on several replicas; with its cause.
            LesionError: What a replica says is wrong with the question.
        """
        ...
