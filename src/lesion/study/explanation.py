"""An :class:`Explanation`: what the neurons of a critical set do alone, together, and by how much, in ``explanation.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from lesion.core.errors import RunError
from lesion.core.interactions import Interplay
from lesion.study.checksums import read_checked
from lesion.study.measured import Measured
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.rundir import EXPLANATION

Source = Literal["search", "minimal set", "top k*"]
NATS = "of the mean NLL of the reference answers, in nats; None where it is not finite"


class PairEntry(BaseModel):
    """Two neurons of the set, masked together."""

    members: tuple[int, int] = Field(description="places in the list of neurons, from 0")
    rise: float | None = Field(description=NATS)
    sum: float | None = Field(description="of the rises alone")
    interplay: Interplay


class DoseEntry(BaseModel):
    """One neuron, or the whole set, scaled by a factor."""

    factor: float
    rise: float | None = Field(description=NATS)
    collapsed: bool | None = Field(description="by the criterion; None where the samples do not decide")


class NeuronDose(BaseModel):
    """One neuron, scaled from beyond 1 to below 0."""

    neuron: NeuronEntry
    alone: float | None = Field(description=f"rise, masked alone, {NATS}")
    promised: float | None = Field(description="what the gradient promises of that at most (Taylor); None where not scored")
    doses: list[DoseEntry]

    @property
    def told(self) -> bool | None:
        """Whether the gradient at the intact model promised half of what was measured, or more; None where nothing happens."""
        if self.promised is None or (self.alone is not None and self.alone < WORTH):
            return None
        return self.alone is not None and self.promised >= self.alone / 2


WORTH = 0.05
"""A rise below so many nats is no effect."""


class AnswerEntry(BaseModel):
    """What a sample is answered with the whole set scaled."""

    sample: str
    answer: str
    mode: str


class SetDose(Measured):
    """The whole set scaled by a factor, with every metric by its name."""

    factor: float
    collapsed: bool | None
    rise: float | None = Field(description=NATS)
    answers: list[AnswerEntry]


class TraceEntry(BaseModel):
    """The size of one channel of the residual stream at one token, before a layer; means over the samples."""

    layer: int
    intact: float
    masked: float
    typical: float = Field(description="median over the channels and tokens of the intact model")


class Trace(BaseModel):
    """Where masking the set changes the residual stream most, and whether putting one number back undoes the harm."""

    channel: int
    token: int = Field(description="from 0, of the prompt, the same in every sample")
    token_class: str
    written_by: int = Field(description="the layer behind which the intact channel has grown most")
    read_by: str | None = Field(description="the norm that reads it first; None where it was not found")
    layers: list[TraceEntry]
    number: float | None = Field(description="mean of the intact channel on the samples that were ranked on")
    before_layer: int | None = Field(description="where it is put back; None where it was not")
    masked_rise: float | None = Field(description=f"with the set masked, {NATS}")
    restored_rise: float | None = Field(description=f"with the set masked and the number put back, {NATS}")

    @property
    def undone(self) -> bool | None:
        """Whether putting the number back takes away half of the harm, or more; None where it was not tried, or no harm is."""
        if self.before_layer is None or (self.masked_rise is not None and self.masked_rise < WORTH):
            return None
        if self.restored_rise is None:
            return False
        return self.masked_rise is None or self.restored_rise <= self.masked_rise / 2

    def sentences(self) -> list[str]:
        """What it comes to."""
        most = max(self.layers, key=lambda entry: abs(entry.intact - entry.masked))
        lines = [
            f"The residual stream changes most in channel {self.channel} at token {self.token} ({self.token_class}): before "
            f"layer {most.layer} its size is {_size(most.intact)} intact and {_size(most.masked)} masked, where the median is "
            f"{_size(most.typical)}. It is written by layer {self.written_by}"
            + (f" and read by {self.read_by}." if self.read_by else ".")
        ]
        if self.undone is not None and self.number is not None:
            tail = "most of the harm is that this number is gone" if self.undone else "it is not this number alone"
            lines.append(
                f"With that one number put back ({_size(self.number)}, from other samples) the rise is "
                f"{_nats(self.restored_rise)} instead of {_nats(self.masked_rise)}: {tail}."
            )
        return lines


class TokenLosses(BaseModel):
    """How unlikely each token of a sample's reference answer is; the NLL in nats, None where it is not finite."""

    sample: str
    tokens: list[str] = Field(description="what each token adds to the text; the end token by its name")
    intact: list[float | None]
    masked: list[float | None] = Field(description="with the whole set masked")


class Explanation(BaseModel):
    """What is known of why a set is critical."""

    source: Source
    neurons: list[NeuronEntry]
    samples: int
    rise: float | None = Field(description=f"with all of them masked, {NATS}")
    sum: float | None = Field(description="of the rises alone")
    pairs: list[PairEntry]
    doses: list[NeuronDose]
    together: list[SetDose] = Field(description="the largest factor first")
    trace: Trace | None = Field(default=None, description="None where the layers' states cannot be looked at")
    losses: list[TokenLosses] = Field(default=[], description="of the first samples")

    @classmethod
    def load(cls, run: str | Path) -> Explanation | None:
        """A run directory's; None where none was made.

        Raises:
            RunError: It is there and cannot be read.
        """
        file = Path(run) / EXPLANATION
        if not file.exists():
            return None
        try:
            return cls.model_validate_json(read_checked(file))
        except ValidationError as error:
            first = error.errors()[0]
            raise RunError(f"{file} cannot be read ({first['msg']}); run lesion explain again to have it made anew") from None

    def breaks_at(self) -> float | None:
        """The largest factor below 1 at which the whole set collapses the model, of those tried; None where none does."""
        return next((d.factor for d in self.together if d.factor < 1 and d.collapsed), None)

    def sentences(self) -> list[str]:
        """What it comes to, a sentence each."""
        count = len(self.neurons)
        lines = []
        if count > 1:
            lines.append(
                f"Masked together, the {count} raise the mean NLL by {_nats(self.rise)}; alone, {_nats(self.sum)} in sum."
            )
            for kind, words in _KINDS.items():
                found = [p for p in self.pairs if p.interplay == kind]
                if found:
                    several = "1 pair" if len(found) == 1 else f"{len(found)} pairs"
                    lines.append(f"{several} of {len(self.pairs)}: {words}.")
        at = self.breaks_at()
        if at is not None:
            lines.append(f"Scaled together, they collapse the model at {at:g} times their values, the first tried that did.")
        blind = [d for d in self.doses if d.told is False]
        if blind:
            which = "1 neuron" if len(blind) == 1 else f"{len(blind)} neurons"
            lines.append(f"For {which} the gradient at the intact model promised less than half of the harm that masking does.")
        if self.trace is not None:
            lines += self.trace.sentences()
        return lines


_KINDS: dict[Interplay, str] = {
    "synergy": "synergy, far more harm together than alone",
    "redundancy": "redundancy, hardly more harm together than the greater does alone",
    "masking": "masking, the harm of one is gone with the other masked too",
}


def _nats(value: float | None) -> str:
    return "more than a number can hold" if value is None else f"{value:.3g} nats"


def _size(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
