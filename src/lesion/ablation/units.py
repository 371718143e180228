"""What is asked under masks, and in which :class:`Unit` s it goes through a model.

A unit is some of the requests on some of the samples. What is found in it depends on it alone, so units can be computed in any
order, and elsewhere: that is what other processes are given (:mod:`lesion.ablation.pooled`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site
from lesion.hooks.edit import WeightEdit
from lesion.hooks.intervention import Intervention, Zero
from lesion.models import memory
from lesion.models.inputs import Prompt
from lesion.models.vlm import VisionLanguageModel

T = TypeVar("T")
KEPT = 2**30
"""Bytes of what the intact model computed that are kept between masks, and of what masked ones read before they answer."""
_AHEAD = 4
"""So many questions are asked before the first is answered: more would mostly be idle ones."""
_WIDER = 4
"""So many times the batch size are the rows that read together where that costs little more."""
_WRITING = 8
"""So many times the batch size are the rows that write together: one token a row and pass, they wait for the weights."""


@dataclass(frozen=True)
class Request:
    """A question: what does this intervention on these neurons do, in a model whose weights are edited like this?

    Attributes:
        neurons: Some, or none.
        intervention: What becomes of their values.
        edits: Of the weights, in order.
    """

    neurons: NeuronSet
    intervention: Intervention = field(default_factory=Zero)
    edits: tuple[WeightEdit, ...] = ()

    @property
    def sites(self) -> list[Site] | None:
        """Where the model is not the intact one; None where that is not known."""
        edited = [edit.sites for edit in self.edits]
        known = [sites for sites in edited if sites is not None]
        only = self.intervention.layers
        masked = [site for site in self.neurons.sites if only is None or site.layer in only]
        return [*masked, *(s for sites in known for s in sites)] if len(known) == len(edited) else None

    @property
    def language_only(self) -> bool:
        """Whether what the language model is given stays as it is."""
        return self.sites is not None and all(site.component == "language" for site in (*self.sites, *self.neurons.sites))


class Cell(NamedTuple):
    """A request's place among those that are asked, and a sample's number."""

    place: int
    sample: int


class Unit(NamedTuple):
    """Cells that go through the model together: each of some requests on each of some samples."""

    places: tuple[int, ...]
    samples: range

    @property
    def cells(self) -> list[Cell]:
        return [Cell(place, i) for place in self.places for i in self.samples]


class Grouping:
    """How requests on some samples are made units.

    Args:
        vlm: The model.
        prompts: The samples' processed prompts.
        max_new_tokens: Longest answer.
        batch_size: Rows at a time.
        alone: One row at a time.
        kept: Keys and values of so many bytes are held while answers are written.
        count: So many samples, where ``prompts`` are only some of theirs.

    Attributes:
        batch_size: Rows at a time where each cannot have a mask of its own.
        reading: Rows that read together; a multiple of the batch size.
        writing: Rows that write together; a multiple of ``reading``.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        batch_size: int,
        alone: bool = False,
        kept: int = KEPT,
        count: int | None = None,
    ) -> None:
        self._vlm, self._count = vlm, len(prompts) if count is None else count
        self.batch_size = self.reading = self.writing = 1 if alone else batch_size
        # What a masked pass keeps of a sample is small beside what was kept of it when it was scored.
        if vlm.engine.layers and not alone:
            self.reading *= _WIDER if vlm.wide else 1
            tokens = max((p.inputs["input_ids"].shape[1] for p in prompts), default=1) + 2 * max_new_tokens
            most = min(_WRITING * batch_size, int(kept // memory.key_values(vlm.model, tokens)))
            self.writing = max(1, most // self.reading) * self.reading

    @property
    def room(self) -> int:
        """How many requests write together."""
        return max(1, self.writing // max(self._count, 1)) if self._vlm.engine.layers else 1

    def ahead(self, replicas: int = 0) -> int:
        """How many requests are worth asking before the first is answered.

        Args:
            replicas: In other processes, each of which should have something to read; 0 for this process's model, where it is
                as many as cost little more than one.
        """
        if replicas:
            return math.ceil(replicas / math.ceil(self._count / self.reading))
        return min(self.room, _AHEAD) if self._vlm.wide else 1

    def units(self, requests: Sequence[Request], reading: bool, apart: bool = False) -> Iterator[list[Unit]]:
        """Lists of units; the requests of a list are done when all of its units are.

        Requests go together with those that are asked beside them, so that it does not matter what is asked later.

        Args:
            requests: What is asked.
            reading: Whether reference answers are read, and nothing is written.
            apart: No request goes together with another.
        """
        kinds: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(request.intervention.id if self._splits(request) else str(place), []).append(place)
        for places in kinds.values():
            most = self.batch_size
            if self._splits(requests[places[0]]):
                most = self.reading if reading else self.writing
            # Where more rows cost as much more, masks that read together gain nothing.
            room = 1 if apart or (reading and not self._vlm.wide) else max(1, most // max(self._count, 1))
            for i in range(0, len(places), room):
                part = tuple(sorted(places[i : i + room], key=lambda place: self.first_layer(requests[place])))
                yield [Unit(part, range(at, min(at + most, self._count))) for at in range(0, self._count, most)]

    def _splits(self, request: Request) -> bool:
        """Whether each row can have a mask of its own."""
        return request.language_only and bool(self._vlm.engine.layers) and not request.edits

    def first_layer(self, request: Request) -> int:
        """Below it the intact model's states hold; 0 if they hold nowhere."""
        layers = self._vlm.engine.layers
        if not layers or not request.language_only:
            return 0
        touched, inside = request.sites or [], f"{layers.path}."
        if not all(inside in s.path for s in touched):
            return 0
        return min((s.layer for s in touched), default=len(layers) - 1)


def together(units: Sequence[Unit], found: Sequence[Sequence[T]]) -> dict[int, list[T]]:
    """What was found in each cell of some units that share their requests: a request's place -> by sample."""
    rows: dict[int, list[T]] = {place: [] for place in units[0].places}
    for unit, cells in zip(units, found, strict=True):
        for cell, x in zip(unit.cells, cells, strict=True):
            rows[cell.place].append(x)
    return rows
