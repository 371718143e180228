"""A :class:`NeuronEntry` is a neuron in ``result.json`` and in tables, spelled out."""

from __future__ import annotations

from pydantic import BaseModel, Field

from lesion.core.neurons import Neuron
from lesion.core.sites import Site


class NeuronEntry(BaseModel):
    """A neuron, spelled out."""

    path: str
    component: str
    role: str
    layer: int
    index: int
    width: int = Field(description="neurons of its site")
    expert: int | None = None

    @classmethod
    def of(cls, neuron: Neuron) -> NeuronEntry:
        return cls(**neuron.as_dict(), width=neuron.site.width)

    def neuron(self) -> Neuron:
        """As a noun; its site is known by name alone, so fit it to a model before masking."""
        site = Site(self.path, self.component, self.role, self.layer, self.width, expert=self.expert)  # pyright: ignore[reportArgumentType]
        return Neuron(site, self.index)

    def __str__(self) -> str:
        expert = "" if self.expert is None else f" expert {self.expert}"
        return f"{self.component} layer {self.layer}{expert} {self.role}[{self.index}]"


class RankedNeuron(NeuronEntry):
    """One of the first of the ranking, with what is known of it."""

    rank: int = Field(description="from 1")
    importance: float | None = Field(description="by the study's scorer; None for a ranking without scores")
    activation: float = Field(description="mean |activation|")
    gradient: float = Field(description="mean |gradient of the loss|")
    consistency: float | None = Field(description="share of samples in which it is among the top share of its role")
    critical: bool = Field(description="among the top k*")
    known: bool = Field(description="a published or seeded coordinate")
