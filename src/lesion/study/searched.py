"""What a measured search found, as ``result.json`` holds it: how it went, the sets it came to, and what is proved of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from lesion.study.control_entry import ControlEntry
from lesion.study.measured import Measured
from lesion.study.neuron_entry import NeuronEntry

Level = Literal["collapses", "1-minimal", "subset-minimal"]
"""What is proved of a set on the samples that were measured on, each level more than the one before.

==================  ================================================================================
``collapses``       masking it collapses the model
``1-minimal``       and no set with one neuron fewer of it does: every one was measured
``subset-minimal``  and no proper subset does: every one was measured
==================  ================================================================================
"""


_PARTS: dict[Level, str] = {
    "collapses": "", "1-minimal": "; without any one of them the model stands", "subset-minimal": "; no part of them is",
}  # fmt: skip


class StepEntry(BaseModel):
    """A set that was better than all before it."""

    spent: int = Field(description="sets measured until then, this one among them, and gradient passes, as three each")
    size: int
    rise: float | None = Field(description="of the mean NLL of the reference answers, in nats; None where it is not finite")
    collapsed: bool


class SingleEntry(BaseModel):
    """A neuron of the shortlist, masked alone."""

    neuron: NeuronEntry
    rise: float | None = Field(description="of the mean NLL of the reference answers, in nats; None where it is not finite")
    collapsed: bool


class CandidateEntry(Measured):
    """A set that collapses the model on the samples of the search, and what it does on those that are measured on."""

    neurons: list[NeuronEntry]
    collapsed: bool | None = Field(description="on the samples that are measured on; None where they do not decide")
    evaluation: str = Field(description="key of the line in evaluations.jsonl")


class SubsetEntry(BaseModel):
    """A part of the set that was found."""

    members: list[int] = Field(description="places in the list of neurons, from 0")
    collapsed: bool | None = Field(description="on the samples that are measured on; None where they do not decide")


class Searched(BaseModel):
    """A measured search (:mod:`lesion.ablation.smallest`), and its verdict."""

    budget: int = Field(description="sets that could be measured")
    spent: int = Field(description="sets that were; a gradient pass counts as three")
    passes: int = Field(description="gradient passes over the samples of the search")
    ended: bool = Field(description="whether the search came to its end within the budget")
    shortlist: int = Field(description="neurons that sets were made of")
    samples: int = Field(description="samples that the search measured on")
    steps: list[StepEntry] = Field(description="how the best so far changed")
    singles: list[SingleEntry] = Field(description="the most harmful of the shortlist, alone, on the samples of the search")
    candidates: list[CandidateEntry] = Field(
        description="asked about on the samples that are measured on: the smallest first, up to one that holds"
    )
    neurons: list[NeuronEntry] | None = Field(description="the smallest set that holds there; None where none does")
    level: Level | None = Field(description="what is proved of it")
    subsets: list[SubsetEntry] = Field(description="its parts that were measured")
    controls: list[ControlEntry] = Field(description="sets of its size, drawn by chance")

    def sentence(self, model: str, prefix: int | None) -> str:
        """The answer in a sentence or two, beside that of the ranking.

        Args:
            model: Its name.
            prefix: k* of the ranking; None where no prefix collapses the model.
        """
        spent = f"{self.spent:,} sets were measured" if self.ended else f"the budget of {self.budget:,} sets was spent"
        if self.neurons is None:
            found = "nothing that collapses" if not self.candidates else "nothing that holds on other samples and collapses"
            return f"Measuring sets of a shortlist of {self.shortlist:,} found {found} {model}; {spent}."
        count = len(self.neurons)
        if prefix is not None and count > prefix:
            return f"Measuring sets found none smaller than the ranking's {prefix:,}; {spent}."
        beside = "" if prefix is None else f", where the ranking takes its first {prefix:,}"
        first, part = ("1 neuron is", "") if count == 1 else (f"{count:,} neurons are", _PARTS[self.level or "collapses"])
        return f"By measuring sets, {first} enough{beside}{part}; {spent}."
