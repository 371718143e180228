"""From what the stages found to the entries of ``result.json``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lesion.ablation.measure import Control
from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.criterion import CRITERIA, told
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.files import write_bytes
from lesion.data.samples import Sample
from lesion.study import rundir
from lesion.study.control_entry import ControlEntry
from lesion.study.curve_point import CurvePoint
from lesion.study.result import CriterionEntry, Example, SampleEntry

PICTURE = 224
"""Longest side of the small copies of the images, in pixels."""


def point_entry(point: Evaluation, collapse: Collapse) -> CurvePoint:
    """One k of the curve."""
    return CurvePoint(
        k=point.k, collapsed=point.k in collapse.collapsed, modes=point.modes, evaluation=point.key,
        outcomes=[o.as_dict() for o in point.outcomes], **point.metrics,
    )  # fmt: skip


def control_entry(control: Control) -> ControlEntry:
    """One control set."""
    evaluation = control.evaluation
    return ControlEntry(
        kind=control.kind, seed=control.seed, k=control.k,
        collapsed=told(control.decision),
        evaluation=None if evaluation is None else evaluation.key, **({} if evaluation is None else evaluation.metrics),
    )  # fmt: skip


def criterion_entries(curve: Curve, seed: int) -> list[CriterionEntry]:
    """What every criterion says of a curve, as far as it goes."""
    entries = []
    for criterion in CRITERIA.values():
        collapse = detect_collapse(curve, seed, criterion)
        entries.append(CriterionEntry(
            name=criterion.name, about=criterion.about or str(criterion), k_star=collapse.k_star,
            undecided=bool(collapse.undecided), left_out=collapse.left_out,
        ))  # fmt: skip
    return entries


def example_entries(samples: dict[str, Sample], intact: Evaluation, masked: Evaluation) -> list[Example]:
    """Every sample's answers, intact and masked."""
    return [
        Example(
            sample=before.id, category=samples[before.id].category, reference=samples[before.id].reference,
            intact=before.answer, masked=after.answer, mode=after.mode,
        )
        for before, after in zip(intact.outcomes, masked.outcomes, strict=True)
    ]  # fmt: skip


def sample_entries(
    samples: Sequence[Sample], ranked: Sequence[Sample], measured: Sequence[Sample], prompt: str, folder: Path
) -> list[SampleEntry]:
    """What was asked, and of what; small copies of the images go into the run directory ``folder``."""
    ranked_ids, measured_ids = ({s.id for s in part} for part in (ranked, measured))
    return [
        SampleEntry(
            id=s.id, category=s.category, reference=s.reference, prompt=s.prompt or prompt, ranked_on=s.id in ranked_ids,
            measured_on=s.id in measured_ids, picture=_picture(folder, i, s.image),
        )
        for i, s in enumerate(samples)
    ]  # fmt: skip


def _picture(folder: Path, number: int, image: Image.Image | None) -> str | None:
    """Writes a small copy, named by number: ids may hold what no file name may."""
    if image is None:
        return None
    small = image.copy()
    small.thumbnail((PICTURE, PICTURE))
    data = io.BytesIO()
    small.save(data, format="JPEG", quality=80)
    name = f"{rundir.PICTURES}/{number}.jpg"
    (folder / rundir.PICTURES).mkdir(exist_ok=True)
    write_bytes(folder / name, data.getvalue())
    return name
