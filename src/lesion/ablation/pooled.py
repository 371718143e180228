"""What masked models say, asked of replicas in other processes (:mod:`lesion.core.executor`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal, TypeVar

from lesion.ablation.ground import Ground, request_dict
from lesion.ablation.replies import MaskedReplies, Said
from lesion.ablation.spent import Spent
from lesion.ablation.units import Grouping, Request, Unit, together
from lesion.core.executor import Executor
from lesion.core.outcome import Likelihood
from lesion.core.packet import pack, unpack
from lesion.models.inputs import Answer

T = TypeVar("T")
Kind = Literal["said", "likelihoods", "losses"]
"""What is asked about a unit: the methods of :class:`~lesion.ablation.replies.MaskedReplies` of these names."""
KINDS: tuple[Kind, ...] = ("said", "likelihoods", "losses")


class PooledReplies:
    """Asks replicas, unit by unit; each unit is computed as it is in one process.

    Args:
        executor: Open.
        grouping: Of requests into units.
        ground: The samples.
        spent: Is added to.
    """

    def __init__(self, executor: Executor, grouping: Grouping, ground: Ground, spent: Spent) -> None:
        self._executor, self._grouping, self._ground, self._spent = executor, grouping, ground, spent

    @property
    def room(self) -> int:
        """So many that each replica has something to read."""
        return self._grouping.ahead(self._executor.replicas)

    @cached_property
    def _name(self) -> str:
        return self._executor.share(self._ground.pack())

    def __call__(self, requests: Sequence[Request], apart: bool = False) -> Iterator[dict[int, list[Said]]]:
        yield from self._each(requests, "said", _said, apart)

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[dict[int, list[Likelihood]]]:
        """Nothing is held: who reads need not be who answers."""
        yield from self._each(requests, "likelihoods", lambda pair: Likelihood(*pair))

    def tokens(self, requests: Sequence[Request]) -> Iterator[dict[int, list[Sequence[float]]]]:
        yield from self._each(requests, "losses", _losses)

    def _each(
        self, requests: Sequence[Request], kind: Kind, make: Callable[[Any], T], apart: bool = False
    ) -> Iterator[dict[int, list[T]]]:
        lists = list(self._grouping.units(requests, kind != "said", apart))
        places = [(i, j) for i, units in enumerate(lists) for j in range(len(units))]
        found: list[dict[int, list[T]]] = [{} for _ in lists]
        tasks = _Tasks(self._name, requests, [unit for units in lists for unit in units], kind)
        for done, data in self._executor.run(tasks):
            i, j = places[done]
            head, _ = unpack(data)
            self._spent.add(Spent(**head["spent"]))
            found[i][j] = [make(cell) for cell in head["found"]]
            if len(found[i]) == len(lists[i]):
                yield together(lists[i], [found[i].pop(number) for number in range(len(lists[i]))])


class _Tasks(Sequence[bytes]):
    """A task a unit, packed when it is handed out: there may be a hundred thousand."""

    def __init__(self, ground: str, requests: Sequence[Request], units: Sequence[Unit], kind: Kind) -> None:
        self._ground, self._requests, self._units, self._kind = ground, requests, units, kind

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, number: Any) -> Any:
        unit = self._units[number]
        return pack({
            "kind": self._kind, "ground": self._ground,
            "requests": [request_dict(self._requests[place]) for place in unit.places],
            "samples": [unit.samples.start, unit.samples.stop],
        })  # fmt: skip


def answer(replies: MaskedReplies, kind: Kind, requests: Sequence[Request], samples: range) -> bytes:
    """What a replica gives back for a task about a unit."""
    before = asdict(replies.spent)
    unit = Unit(tuple(range(len(requests))), samples)
    found: Sequence[Any] = {"said": replies.said, "likelihoods": replies.likelihoods, "losses": replies.losses}[kind](
        requests, unit
    )
    spent = {name: value - before[name] for name, value in asdict(replies.spent).items()}
    return pack({"found": [_plain(cell) for cell in found], "spent": spent})


def _plain(cell: Said | Likelihood | Sequence[float]) -> Any:
    if isinstance(cell, Likelihood):
        return [cell.nll, cell.tokens]
    if not isinstance(cell, Said):
        return list(cell)
    likelihoods = (cell.reference, cell.generated, cell.generated_intact, cell.baseline)
    return [cell.answer.as_dict(), *([x.nll, x.tokens] for x in likelihoods), cell.kl]


def _said(data: Sequence[Any]) -> Said:
    text, reference, generated, generated_intact, baseline, kl = data
    return Said(
        Answer.from_dict(text), Likelihood(*reference), Likelihood(*generated), Likelihood(*generated_intact),
        Likelihood(*baseline), kl,
    )  # fmt: skip


def _losses(data: Sequence[float]) -> Sequence[float]:
    return list(data)
