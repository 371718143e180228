"""The conclusion: puts together everything that a study found as its :class:`lesion.result.Result`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from lesion import rundir
from lesion.bench import Bench, Measurement
from lesion.collapse import Collapse
from lesion.curve import Curve, Point
from lesion.data import Sample
from lesion.files import write_bytes
from lesion.importance import Importance
from lesion.known import Known, truth_of
from lesion.manifest import conditions
from lesion.minimal import Minimal
from lesion.neurons import Neuron, NeuronSet
from lesion.ranking import Ranking
from lesion.result import (
    Control,
    CurvePoint,
    Example,
    NeuronEntry,
    Place,
    RankedNeuron,
    Result,
    SampleEntry,
    verdict,
)
from lesion.sites import ROLES, Site

LISTED = 1000
"""Critical neurons spelled out in ``result.json``; ``critical.json`` has them all."""
TOP = 200
"""Neurons of the ranking that are listed with everything that is known of them."""
PICTURE = 224
"""Longest side of the small copies of the images, in pixels."""


@dataclass(frozen=True)
class Findings:
    """What the stages of a study found.

    Attributes:
        bench: The model, its samples and its run directory.
        ranked: The samples that neurons were ranked on.
        measured: The samples that masks were measured on.
        importances: By scorer; holds the study's own, ``activation`` and ``gradient``.
        measure: Knows which line of ``evaluations.jsonl`` a mask's values are in.
        ranking: Of the chosen sites.
        curve: Of the ranking's prefixes.
        collapse: What it says.
        critical: The top k*.
        minimal: None where none was sought.
        controls: Sets of the same size.
    """

    bench: Bench
    ranked: Sequence[Sample]
    measured: Sequence[Sample]
    importances: Mapping[str, Importance]
    measure: Measurement
    ranking: Ranking
    curve: Curve
    collapse: Collapse
    critical: NeuronSet
    minimal: Minimal | None
    controls: list[Control]

    @cached_property
    def known(self) -> Known | None:
        """What is known of the model, where it fits."""
        return truth_of(self.bench.vlm, None)

    def conclude(self) -> Result:
        """The answer; small copies of the images are written for those who show it."""
        bench, options, collapse = self.bench, self.bench.options, self.collapse
        if not collapse.monotone:
            bench.notes.append("the curve is not monotone: at some k the model is better than at a smaller one")
        k_star, end = collapse.k_star, None if collapse.k_star is None else self.curve.at(collapse.k_star)
        critical = [entry(self.ranking[i]) for i in range(min(len(self.critical), LISTED))]
        chance = self.curve.chance
        return Result(
            model=options.model, component=options.component, role=options.role, scorer=options.scorer,
            alpha=options.alpha, samples=len(bench.samples), neurons_total=len(self.ranking),
            baseline=self.curve.intact.metrics,
            chance={"clip_score": None if chance is None else float(chance.mean())},
            curve=[self._point(p) for p in self.curve], stage1_k=collapse.stage1_k, k_star=k_star,
            k_star_fraction=None if k_star is None else k_star / len(self.ranking),
            k_star_ci=collapse.k_star_ci, largest_k=collapse.largest_k, monotone=collapse.monotone, critical=critical,
            minimal_set=None if self.minimal is None else [entry(n) for n in self.minimal.neurons],
            minimal_verified=self.minimal is not None and self.minimal.verified, controls=self.controls,
            modes=None if end is None else end.modes,
            examples=[] if end is None else self._examples(self.curve.intact, end), top=self._top(), places=self._places(),
            known=None if self.known is None else f"{self.known.name} ({self.known.source})",
            sample_list=self._samples(), chance_clip=None if chance is None else chance.tolist(), seed=options.seed,
            notes=bench.notes,
            verdict=verdict(
                options.model, k_star, len(self.ranking), collapse.largest_k, options.component, options.role, self.controls,
                critical,
            ),
            command=options.command(), options=options.model_dump(), conditions=conditions(bench.vlm, bench.fingerprint),
            run=str(bench.run.path),
        )  # fmt: skip

    def _point(self, point: Point) -> CurvePoint:
        return CurvePoint(
            k=point.k, collapsed=point.k in self.collapse.collapsed, modes=point.modes,
            evaluation=self.measure.key(self.ranking.top(point.k)), judged=[j.as_dict() for j in point.judged], **point.metrics,
        )  # fmt: skip

    def _examples(self, intact: Point, masked: Point) -> list[Example]:
        samples = self.bench.samples
        return [
            Example(
                sample=before.id, category=samples[before.id].category, reference=samples[before.id].reference,
                intact=before.answer, masked=after.answer, mode=after.mode,
            )
            for before, after in zip(intact.judged, masked.judged, strict=True)
        ]  # fmt: skip

    def _top(self) -> list[RankedNeuron]:
        known = NeuronSet()
        if self.known is not None:
            for role in ROLES:
                if any(site.role == role for site in self.ranking.sites):
                    known = known | self.known.neurons(self.bench.vlm.sites, role)
        made = []
        for i in range(min(TOP, len(self.ranking))):
            neuron = self.ranking[i]
            values = {name: self.importances[name].values(neuron.site) for name in ("activation", "gradient")}
            of: dict[str, Any] = {name: float(value[neuron.index]) for name, value in values.items()}
            made.append(RankedNeuron(
                **neuron.as_dict(), rank=i + 1, importance=float(self.ranking.scores[i]), **of,
                consistency=float(self.ranking.importance.consistency(neuron.site)[neuron.index]),
                critical=neuron in self.critical, known=neuron in known,
            ))  # fmt: skip
        return made

    def _places(self) -> list[Place]:
        return [self._place(site) for site in self.ranking.importance.sites]

    def _place(self, site: Site) -> Place:
        values = self.ranking.importance.values(site)
        return Place(
            component=site.component, role=site.role, layer=site.layer, expert=site.expert, width=site.width,
            reachable=site.reachable, mean=float(values.mean()), highest=float(values.max()),
            critical=len(self.critical.indices(site)),
        )  # fmt: skip

    def _samples(self) -> list[SampleEntry]:
        ranked, measured = ({s.id for s in part} for part in (self.ranked, self.measured))
        return [
            SampleEntry(
                id=s.id, category=s.category, reference=s.reference, prompt=s.prompt or self.bench.options.prompt,
                ranked_on=s.id in ranked, measured_on=s.id in measured, picture=self._picture(i, s.image),
            )
            for i, s in enumerate(self.bench.samples.values())
        ]  # fmt: skip

    def _picture(self, number: int, image: Image.Image | None) -> str | None:
        """Writes a small copy, named by number: ids may hold what no file name may."""
        if image is None:
            return None
        small = image.copy()
        small.thumbnail((PICTURE, PICTURE))
        data = io.BytesIO()
        small.save(data, format="JPEG", quality=80)
        name = f"{rundir.PICTURES}/{number}.jpg"
        (self.bench.run.path / rundir.PICTURES).mkdir(exist_ok=True)
        write_bytes(self.bench.run.path / name, data.getvalue())
        return name


def entry(neuron: Neuron) -> NeuronEntry:
    """A neuron as ``result.json`` has it."""
    return NeuronEntry(**neuron.as_dict())
