"""A :class:`Result` is a study's answer: what ``result.json`` holds, what others read, and what every figure is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from lesion.core.collapse import Collapse
from lesion.core.curve import Curve
from lesion.core.errors import RunError
from lesion.core.identity import Identity
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site
from lesion.core.tables import escape, to_frame
from lesion.study.confirmed import Confirmed
from lesion.study.control_entry import ControlEntry, by_kind
from lesion.study.curve_point import CurvePoint
from lesion.study.measured import Metrics
from lesion.study.neuron_entry import NeuronEntry, RankedNeuron
from lesion.study.origin import Origin as Origin
from lesion.study.rundir import CRITICAL, RESULT, read_checked
from lesion.study.searched import Searched


class SiteSummary(BaseModel):
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
    def of(cls, site: Site, importances: np.ndarray, critical: int = 0) -> SiteSummary:
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


class CriterionEntry(BaseModel):
    """What another criterion says of the same curve; its k* is one of the k that were evaluated."""

    name: str
    about: str
    k_star: int | None
    undecided: bool = Field(description="the samples do not decide at some k")
    left_out: dict[str, str] = Field(description="metric -> why its condition decides nothing")


class MaskedAlone(BaseModel):
    """The neuron that is first by activation, masked alone, where the ranking does not have it among the top k*."""

    neuron: NeuronEntry
    rank: int | None = Field(description="in the study's ranking, from 1; None where it is not in it")
    before: Metrics = Field(description="headline metric -> value of the intact model")
    after: Metrics = Field(description="the same with this neuron masked")
    rise: float | None = Field(description="of the mean NLL of the intact answers, in nats; None where it is not finite")
    rise_of_first: float | None = Field(description="the same with the first neuron of the ranking masked alone")
    collapsed: bool | None = Field(description="by the criterion; None where the samples do not decide")
    missed: bool = Field(description="by the rule of lesion.study.blind")
    evaluation: str = Field(description="key of the line in evaluations.jsonl")


class FirstOrder(BaseModel):
    """What masking a set does to the mean NLL of the intact answers, and what the gradient promises; in nats."""

    of: Literal["top k", "minimal set"]
    k: int
    promised: float = Field(description="sum of the neurons' Taylor importance, on the samples that were ranked on")
    measured: float | None = Field(description="rise of the mean NLL of the answers' tokens; None where it is not finite")

    @property
    def name(self) -> str:
        """The set in words."""
        return f"top {self.k:,}" if self.of == "top k" else f"minimal set of {self.k:,}"


class Blind(BaseModel):
    """Where a gradient at the intact model does not see what masking does (:mod:`lesion.study.blind`)."""

    alone: MaskedAlone | None
    first_order: list[FirstOrder] = Field(description="the evaluated k up to k*, and the minimal set; zero masks only")
    beyond: FirstOrder | None = Field(description="the first of a neuron masked alone that is far beyond its promise")
    warnings: list[str] = Field(description="in words; they are among the notes too")


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

    format: Literal["lesion-result-1"] = "lesion-result-1"
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
    undecided: list[int] = Field(description="the evaluated k at which the samples do not decide")
    samples_needed: int | None = Field(description="about how many would decide the first of them")
    criterion: dict[str, Any] = Field(description="what counts as collapsed, as data")
    left_out: dict[str, str] = Field(description="metric -> why the criterion's condition on it decides nothing")
    criteria: list[CriterionEntry] = Field(description="what every criterion says of this curve")
    critical_neurons: list[NeuronEntry] = Field(description="the top k*, at most 1,000 of them; all in critical.json")
    minimal_set: list[NeuronEntry] | None
    minimal_verified: bool
    controls: list[ControlEntry]
    modes: dict[str, float] | None
    examples: list[Example]
    top: list[RankedNeuron] = Field(description="the first 200 of the ranking")
    places: list[SiteSummary] = Field(description="every site of the model that was scored")
    known: str | None = Field(description="whose known coordinates the model has, and where they were published")
    sample_list: list[SampleEntry]
    chance_clip: list[float] | None = Field(description="each measured sample's CLIP score at chance level")
    seed: int
    complaints: list[str] = Field(description="why the intact model does not work on this data; empty where it does")
    confirmed: Confirmed | None = Field(None, description="k* measured again, one sample at a time; None without a collapse")
    blind: Blind | None = Field(None, description="where the gradient does not see what masking does; None where not looked at")
    searched: Searched | None = Field(None, description="what measuring sets found; None where that was not asked for")
    origin: Origin | None = Field(None, description="what lesion did to the model before; None where it did nothing")
    notes: list[str] = Field(description="everything a reader should know before believing it")
    handful: bool = Field(description="whether there is a critical handful, by the rule of lesion.study.verdict")
    verdict: str
    command: str = Field(description="asks the same again")
    options: dict[str, Any]
    conditions: dict[str, Any] = Field(description="versions, device, dtype, model class and identity")
    run: str

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Reads a run directory, or its ``result.json``.

        Raises:
            RunError: No such file, or no result of this version of lesion.
        """
        file = Path(path) / RESULT if Path(path).is_dir() else Path(path)
        try:
            result = cls.model_validate_json(read_checked(file))
            result.run = str(file.parent)  # a run directory may have been moved since
            return result
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{file} cannot be read ({reason}); expected the run directory of a finished study") from None
        except ValidationError as error:
            first = error.errors()[0]
            what = ".".join(map(str, first["loc"])) or "the file"
            hint = "; it may be another version's: run its study again to have it made anew"
            raise RunError(f"{file} is no result that this version of lesion reads ({what}: {first['msg']}){hint}") from None

    @classmethod
    def schema_of_file(cls) -> dict[str, Any]:
        """The JSON schema (2020-12) of ``result.json``."""
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema(mode="serialization")}

    # -- what it says ------------------------------------------------------------------------------------------------
    @property
    def critical(self) -> NeuronSet:
        """The top k*; empty without a collapse."""
        if (self.k_star or 0) > len(self.critical_neurons):
            return NeuronSet.load(Path(self.run) / CRITICAL)
        return NeuronSet((entry.neuron() for entry in self.critical_neurons), self.identity)

    @property
    def identity(self) -> Identity:
        """The model that it is about."""
        return Identity.from_dict(self.conditions["model"])

    @property
    def collapse(self) -> Collapse:
        """What the curve says."""
        return Collapse(
            self.stage1_k, self.k_star, self.k_star_ci, self.largest_k, self.monotone,
            tuple(p.k for p in self.curve if p.collapsed), tuple(self.undecided),
            sum(s.measured_on for s in self.sample_list), self.samples_needed, self.left_out,
        )  # fmt: skip

    def table(self) -> list[dict[str, Any]]:
        """The curve as rows."""
        return [{"k": p.k, "collapsed": p.collapsed, **p.metrics} for p in self.curve]

    def to_frame(self):
        """The curve as a pandas ``DataFrame``; raises as :func:`lesion.core.tables.to_frame`."""
        return to_frame(self.table())

    def controls_to_frame(self):
        """The controls, a row a set; raises as :func:`lesion.core.tables.to_frame`."""
        return to_frame([{**c.model_dump(include={"kind", "seed", "k", "collapsed"}), **c.metrics} for c in self.controls])

    def confidence(self) -> list[str]:
        """How sure the answer is: one sentence for each kind of evidence."""
        if self.k_star is None:
            return [f"No k up to {self.largest_k:,} of {self.neurons_total:,} collapses the model and stays collapsed."]
        lines = [f"k* = {self.k_star:,}; {self.collapse.interval()}."]
        if self.confirmed is not None and self.confirmed.holds:
            ks = " and ".join(f"k = {point.k:,}" for point in self.confirmed.points)
            lines.append(f"Measured again one sample at a time: {ks}, with the same outcome.")
        for kind in by_kind(self.controls).values():
            if kind.bound is not None:
                bound = f"{100 * kind.bound:.0f} %"
                unsure = f", {kind.undecided} are undecided" if kind.undecided else ""
                lines.append(
                    f"{kind.label}: {kind.fallen} of {kind.drawn} collapse the model{unsure} (with 95 % confidence, at most "
                    f"{bound} of all such sets do)."
                )
        if self.minimal_set is not None and self.minimal_verified:
            count = len(self.minimal_set)
            lines.append(
                f"{count} of them suffice, and each is needed: leaving out any one was tried." if count > 1
                else "1 of them suffices."
            )  # fmt: skip
        return lines

    def read_curve(self) -> Curve:
        """The curve with every sample's values."""
        return Curve([point.read() for point in self.curve], self.chance_clip)

    def __repr__(self) -> str:
        minimal = "not sought" if self.minimal_set is None else ", ".join(map(str, self.minimal_set[:6]))
        groups = by_kind(self.controls).values()
        controls = ", ".join(
            f"{g.kind} {g.standing} of {g.drawn}" if g.drawn else f"{g.kind} could not be drawn" for g in groups
        )
        star = "none" if self.k_star is None else f"{self.k_star:,}"
        lines = [
            f"Result of {self.command}",
            self.verdict,
            f"stage 1: {self.collapse.stage1()}",
            f"k*: {star} of {self.neurons_total:,}; {self.collapse.interval()}",
            f"minimal set: {minimal}",
            f"controls that leave it standing: {controls or 'none drawn'}",
            f"notes: {len(self.notes)}",
            f"run: {self.run}",
        ]
        return "\n".join(lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        lines = [*self.confidence(), *(f"Note: {note}." for note in self.notes)]
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        return f"<p><strong>{escape(self.verdict)}</strong></p><ul>{items}</ul>"
