"""A :class:`Result` is a study's answer: what ``result.json`` holds, what others read, and what every figure is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lesion.controls import upper_bound
from lesion.curve import Curve, Point
from lesion.errors import RunError
from lesion.metrics import Judged
from lesion.sites import Site

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lesion.collapse import Collapse

HANDFUL = 10
"""The paper finds four or five neurons in LLaVA and over a thousand in InstructBLIP; up to here we speak of a handful."""
FILE = "result.json"

CONTROLS = {
    "random": "Random sets of the same size",
    "layers": "Random sets in the same layers",
    "magnitude": "Sets of matched activation",
}
"""Kinds of control sets, for people."""

Metrics = dict[str, float | None]


class NeuronEntry(BaseModel):
    """A neuron, spelled out."""

    path: str
    component: str
    role: str
    layer: int
    index: int
    expert: int | None = None

    def __str__(self) -> str:
        expert = "" if self.expert is None else f" expert {self.expert}"
        return f"{self.component} layer {self.layer}{expert} {self.role}[{self.index}]"


class RankedNeuron(NeuronEntry):
    """One of the first of the ranking, with what is known of it."""

    rank: int = Field(description="from 1")
    importance: float = Field(description="by the study's scorer")
    activation: float = Field(description="mean |activation|")
    gradient: float = Field(description="mean |gradient of the loss|")
    consistency: float = Field(description="share of samples in which it is among the top 1 % of its component and role")
    critical: bool = Field(description="among the top k*")
    known: bool = Field(description="a published or seeded coordinate")


class Place(BaseModel):
    """One site: how important its neurons are."""

    component: str
    role: str
    layer: int
    expert: int | None
    width: int
    reachable: bool
    mean: float = Field(description="importance by the study's scorer, mean over the neurons")
    highest: float = Field(description="of the most important neuron")
    critical: int = Field(description="how many of the top k* are here")

    @classmethod
    def of(cls, site: Site, importances: np.ndarray, critical: int = 0) -> Place:
        """A site with its neurons' importances, ``[width]``."""
        return cls(
            component=site.component, role=site.role, layer=site.layer, expert=site.expert, width=site.width,
            reachable=site.reachable, mean=float(importances.mean()), highest=float(importances.max()), critical=critical,
        )  # fmt: skip


class SampleEntry(BaseModel):
    """One sample, and what it was used for."""

    id: str
    category: str | None
    reference: str | None
    prompt: str
    ranked_on: bool
    measured_on: bool
    picture: str | None = Field(description="small copy of the image, a file below the run directory")


class _Measured(BaseModel):
    """Something with every metric by its name beside its own fields."""

    model_config = ConfigDict(extra="allow")

    @property
    def metrics(self) -> Metrics:
        return dict(self.__pydantic_extra__ or {})


class CurvePoint(_Measured):
    """One k of the curve: ``k``, ``collapsed``, every metric by its name, and every sample's answer and values."""

    k: int
    collapsed: bool
    modes: dict[str, float]
    evaluation: str = Field(description="key of the line in evaluations.jsonl")
    judged: list[dict[str, Any]] = Field(description="what lesion.metrics.Judged holds, one a measured sample")


class Control(_Measured):
    """One control set. ``collapsed`` is None where the model has not enough other neurons to draw it."""

    kind: str
    seed: int
    k: int
    collapsed: bool | None
    evaluation: str | None = None


@dataclass(frozen=True)
class ControlKind:
    """The control sets of one kind.

    Attributes:
        kind: See :data:`lesion.controls.KINDS`.
        sets: Those that could be drawn.
        missing: How many could not.
    """

    kind: str
    sets: tuple[Control, ...]
    missing: int

    @property
    def name(self) -> str:
        """For people."""
        return CONTROLS.get(self.kind, self.kind)

    @property
    def drawn(self) -> int:
        return len(self.sets)

    @property
    def fallen(self) -> int:
        """How many collapse the model."""
        return sum(bool(c.collapsed) for c in self.sets)

    @property
    def bound(self) -> float | None:
        """With 95 % confidence at most this share of all such sets collapses the model; None where none was drawn."""
        return upper_bound(self.fallen, self.drawn) if self.sets else None


def by_kind(controls: Sequence[Control]) -> dict[str, ControlKind]:
    """The control sets of each kind, in the order in which the kinds come."""
    found = {}
    for kind in dict.fromkeys(c.kind for c in controls):
        every = [c for c in controls if c.kind == kind]
        drawn = tuple(c for c in every if c.collapsed is not None)
        found[kind] = ControlKind(kind, drawn, len(every) - len(drawn))
    return found


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
    top: list[RankedNeuron] = Field(description="the first 200 of the ranking")
    places: list[Place] = Field(description="every site of the model that was scored")
    known: str | None = Field(description="whose known coordinates the model has, and where they were published")
    sample_list: list[SampleEntry]
    chance_clip: list[float] | None = Field(description="each measured sample's CLIP score at chance level")
    seed: int
    notes: list[str] = Field(description="everything a reader should know before believing it")
    verdict: str
    command: str = Field(description="asks the same again")
    options: dict[str, Any]
    conditions: dict[str, Any] = Field(description="versions, device, dtype, model class, fingerprint, revision")
    run: str

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Reads a run directory, or its ``result.json``.

        Raises:
            RunError: No such file, or no result of this version of lesion.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{file} cannot be read ({reason}); expected the run directory of a finished study") from None
        except ValidationError as error:
            first = error.errors()[0]
            what = ".".join(map(str, first["loc"])) or "the file"
            hint = "; it may be another version's: run its study again to have it made anew"
            raise RunError(f"{file} is no result that this version of lesion reads ({what}: {first['msg']}){hint}") from None

    # -- what it says ------------------------------------------------------------------------------------------------
    def table(self) -> list[dict[str, Any]]:
        """The curve as rows."""
        return [{"k": p.k, "collapsed": p.collapsed, **p.metrics} for p in self.curve]

    def confidence(self) -> list[str]:
        """How sure the answer is: one sentence for each kind of evidence."""
        if self.k_star is None:
            return [f"No k up to {self.largest_k:,} of {self.neurons_total:,} collapses the model and stays collapsed."]
        low, high = (f"{end:,}" if end is not None else "none" for end in self.k_star_ci)
        measured = sum(s.measured_on for s in self.sample_list)
        lines = [f"k* = {self.k_star:,}; over {measured} samples its 95 % bootstrap interval is {low} to {high}."]
        for kind in by_kind(self.controls).values():
            if kind.bound is not None:
                bound = f"{100 * kind.bound:.0f} %"
                lines.append(
                    f"{kind.name}: {kind.fallen} of {kind.drawn} collapse the model (at most {bound} of all would, 95 % sure)."
                )
        if self.minimal_set is not None and self.minimal_verified:
            count = len(self.minimal_set)
            lines.append(f"{count} of them are enough, and none of these can be left out: each of the {count} was tried.")
        return lines

    # -- what figures are made from ----------------------------------------------------------------------------------
    def read_curve(self) -> Curve:
        """The curve with every sample's values."""
        points = [Point(p.k, tuple(Judged.from_dict(j) for j in p.judged)) for p in self.curve]
        return Curve(points, self.chance_clip)

    def collapse(self) -> Collapse:
        """What the curve says; the same as when the study was made."""
        from lesion.collapse import find

        return find(self.read_curve(), self.seed)

    def plot(self) -> Figure:
        """The two-stage curve."""
        from lesion.report.figures import plot_curve

        return plot_curve(self.read_curve(), self.collapse(), self.verdict)

    def plot_places(self) -> Figure:
        """The map of layers and roles: how important their neurons are, and how many of them are critical."""
        from lesion.report.places import plot_places

        return plot_places(self.places, f"{self.model}: importance by {self.scorer}, k* of {self.component} {self.role}")

    def _repr_html_(self) -> str:
        from lesion.report.notebook import of_result

        return of_result(self)


def verdict(
    model: str, k_star: int | None, neurons_total: int, largest_k: int, component: str, role: str, controls: list[Control],
    critical: list[NeuronEntry],
) -> str:  # fmt: skip
    """The answer in a sentence or two."""
    kind = " ".join(word for word in (component, role) if word != "all")
    what = f"{neurons_total:,} {kind} neurons".replace("  ", " ")
    if k_star is None:
        return f"No collapse found up to k = {largest_k:,} of {what}: {model} has no critical handful here."
    random = by_kind(controls).get("random")
    luck = ""
    if random is not None and random.drawn:
        luck = f" {random.drawn - random.fallen} of {random.drawn} random sets of that size leave it standing."
    if k_star <= HANDFUL:
        layers = Counter((n.component, n.layer) for n in critical)
        (where, layer), _ = layers.most_common(1)[0]
        place = f"all in {where} layer {layer}" if len(layers) == 1 and k_star > 1 else f"in {where} layer {layer}"
        if len(layers) > 1:
            place = f"in {len(layers)} layers"
        return f"Masking {k_star} of {what}, {place}, collapses {model}: a critical handful.{luck}"
    share = f"{100 * k_star / neurons_total:.2g} %"
    return f"No critical handful: {model} stands until {k_star:,} of {what} ({share}) are masked.{luck}"
