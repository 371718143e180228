"""A :class:`Result` is a study's answer: what ``result.json`` holds, and what others read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

HANDFUL = 10
"""The paper finds four or five neurons in LLaVA and over a thousand in InstructBLIP; up to here we speak of a handful."""

Metrics = dict[str, float | None]


class NeuronEntry(BaseModel):
    """A neuron, spelled out."""

    path: str
    component: str
    role: str
    layer: int
    index: int
    expert: int | None = None


class _Measured(BaseModel):
    """Something with every metric by its name beside its own fields."""

    model_config = ConfigDict(extra="allow")

    @property
    def metrics(self) -> Metrics:
        return dict(self.__pydantic_extra__ or {})


class CurvePoint(_Measured):
    """One k of the curve: ``k``, ``collapsed``, and every metric by its name."""

    k: int
    collapsed: bool
    modes: dict[str, float]
    evaluation: str = Field(description="key of the line in evaluations.jsonl")


class Control(_Measured):
    """One control set. ``collapsed`` is None where the model has not enough other neurons to draw it."""

    kind: str
    seed: int
    k: int
    collapsed: bool | None
    evaluation: str | None = None


class Example(BaseModel):
    """One sample's answers, intact and at k*."""

    sample: str
    category: str | None
    reference: str | None
    intact: str
    masked: str
    mode: str


class Result(BaseModel):
    """The answer of a study. None where there is nothing to say, never NaN."""

    model: str
    component: str
    role: str
    scorer: str
    alpha: float
    samples: int
    neurons_total: int
    baseline: Metrics
    chance: Metrics
    curve: list[CurvePoint]
    stage1_k: int | None
    k_star: int | None
    k_star_fraction: float | None
    k_star_ci: tuple[int | None, int | None]
    largest_k: int
    monotone: bool
    critical: list[NeuronEntry] = Field(description="the top k* of the ranking, at most 1,000 of them; all in critical.json")
    minimal_set: list[NeuronEntry] | None
    minimal_verified: bool
    controls: list[Control]
    modes: dict[str, float] | None
    examples: list[Example]
    notes: list[str] = Field(description="everything a reader should know before believing it")
    verdict: str
    run: str

    def table(self) -> list[dict[str, Any]]:
        """The curve as rows."""
        return [{"k": p.k, "collapsed": p.collapsed, **p.metrics} for p in self.curve]


def verdict(
    k_star: int | None, neurons_total: int, largest_k: int, component: str, role: str, controls: list[Control], layers: int
) -> str:
    """The answer in a sentence or two."""
    kind = " ".join(word for word in (component, role) if word != "all")
    what = f"{neurons_total:,} {kind} neurons".replace("  ", " ")
    if k_star is None:
        return f"No collapse found up to k = {largest_k:,} of {what}: this model has no critical handful here."
    drawn = [c for c in controls if c.kind == "random" and c.collapsed is not None]
    standing = sum(not c.collapsed for c in drawn)
    luck = f" {standing} of {len(drawn)} random sets of that size leave it standing." if drawn else ""
    where = f"{layers} layer{'s' if layers > 1 else ''}"
    if k_star <= HANDFUL:
        return f"Masking {k_star} of {what}, in {where}, collapses the model: a critical handful.{luck}"
    share = f"{100 * k_star / neurons_total:.2g} %"
    return f"No critical handful: the model stands until {k_star:,} of {what} ({share}) are masked.{luck}"
