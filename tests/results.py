"""Results of studies that never ran: made from numbers and texts, for what shows them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lesion.core.criterion import detect_collapse
from lesion.core.curve import Curve, Evaluation
from lesion.core.metrics import SampleOutcome, Likelihood, Mode
from lesion.study.options import StudyOptions
from lesion.study.result import Control, CurvePoint, NeuronEntry, SiteSummary, RankedNeuron, Result, SampleEntry, verdict

KS = (0, 1, 2, 3, 4, 6)
MODES_AT: tuple[Mode, ...] = ("intact", "degraded", "degraded", "off-topic", "gibberish", "gibberish")
FALLS = (0.15, 0.16, 0.18, 0.9, 4.0, 5.0)
STANDS = (0.15, 0.15, 0.15, 0.15, 0.15, 0.16)
BABBLE = "tree tree the a things , a tree blue tree"
CATEGORIES = ("dog", "car", "house")

Say = Callable[[int, int], str]


def says(sample: int, k: int) -> str:
    """The intact answer, one with a word changed, or babble."""
    intact = f"a small {('red', 'blue', 'green')[sample % 3]} dog sits next to car number {sample}"
    return intact if k == 0 else intact.replace("small", "huge") if k < 4 else BABBLE


def result(
    samples: int = 6,
    nll: Sequence[float] = FALLS,
    say: Say = says,
    clip: bool = True,
    pictures: bool = True,
    controls: int = 3,
    experts: int = 0,
    ks: Sequence[int] = KS,
    category: Callable[[int], str | None] = lambda i: CATEGORIES[i % 3],
    **changed: Any,
) -> Result:
    """A result whose parts fit each other; ``changed`` are its fields.

    Args:
        samples: As many measured ones, and as many that were only ranked on.
        nll: Mean negative log-likelihood at every k; a value that is not finite becomes None.
        say: Sample's number, k -> answer.
        clip: Whether there are CLIP scores.
        pictures: Whether samples have a picture; :func:`save` writes them.
        controls: Sets of each kind.
        experts: Experts of each layer; 0 for a model without.
        ks: What was evaluated.
        category: Of a sample.
        **changed: Fields of the result.
    """
    modes: list[Mode] = [MODES_AT[min(KS.index(k) if k in KS else len(KS) - 1, len(MODES_AT) - 1)] for k in ks]
    points = [
        Evaluation(k, tuple(_judged(i, say(i, k), n, clip, "intact" if k == 0 else mode) for i in range(samples)))
        for k, n, mode in zip(ks, nll, modes, strict=True)
    ]
    chance = [10.0] * samples if clip else None
    curve = Curve(points, chance)
    found = detect_collapse(curve)
    top = [_ranked(i, found.k_star or 0, experts) for i in range(40)]
    critical = [NeuronEntry(**n.model_dump(include=set(NeuronEntry.model_fields))) for n in top[: found.k_star or 0]]
    sets = [_control(kind, seed, found.k_star) for kind in ("random", "layers", "magnitude") for seed in range(controls)]
    sets = sets if found.k_star is not None else []
    options = StudyOptions.parse().model_dump()
    fields: dict[str, Any] = {
        "model": "made-up", "component": "language", "role": "gate", "scorer": "can", "alpha": 1.0, "samples": 2 * samples,
        "neurons_total": 400, "baseline": curve.intact.metrics, "chance": {"clip_score": 10.0 if clip else None},
        "curve": [
            CurvePoint(k=p.k, collapsed=p.k in found.collapsed, modes=p.modes, evaluation=f"key{p.k}",
                       outcomes=[j.as_dict() for j in p.outcomes], **p.metrics) for p in points
        ],
        "stage1_k": found.stage1_k, "k_star": found.k_star,
        "k_star_fraction": None if found.k_star is None else found.k_star / 400, "k_star_ci": found.k_star_ci,
        "largest_k": found.largest_k, "monotone": found.monotone, "critical": critical,
        "minimal_set": critical or None, "minimal_verified": bool(critical), "controls": sets,
        "modes": None if found.k_star is None else curve.at(found.k_star).modes, "examples": [], "top": top,
        "places": _places(found.k_star or 0, experts), "known": None,
        "sample_list": [_sample(i, samples, pictures, category) for i in range(2 * samples)], "chance_clip": chance, "seed": 0,
        "notes": [], "command": "lesion study made-up", "options": options,
        "conditions": {"versions": {"lesion": "0"}, "device": "cpu", "dtype": "float32"}, "run": "runs/made-up",
    }  # fmt: skip
    fields["verdict"] = verdict("made-up", found.k_star, 400, found.largest_k, "language", "gate", sets, critical)
    return Result(**{**fields, **changed})


def save(made: Result, folder: Path) -> Path:
    """As a run directory: ``result.json`` and pictures."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(made.model_dump_json())
    for i, sample in enumerate(made.sample_list):
        if sample.picture is not None:
            data = io.BytesIO()
            Image.new("RGB", (224, 160), (40 * i % 256, 90, 200 - 20 * i % 200)).save(data, format="JPEG")
            (folder / f"pictures/{i}.jpg").write_bytes(data.getvalue())
    return folder


def _judged(i: int, answer: str, nll: float, clip: bool, mode: Mode) -> SampleOutcome:
    value = Likelihood(nll + 0.01 * i if math.isfinite(nll) else None, 12)
    score = (75.0 + i if mode in ("intact", "degraded") else 9.0 + 0.1 * i) if clip else None
    return SampleOutcome(f"s{i}", answer, value, value, value, score, 0.1, 0.5, mode == "intact", 0.0, 0.0, mode)


def _ranked(i: int, critical: int, experts: int) -> RankedNeuron:
    return RankedNeuron(
        path=f"model.layers.{i % 4}.mlp.gate_proj", component="language", role="gate", layer=i % 4, index=7 * i,
        expert=i % experts if experts else None, rank=i + 1, importance=1.0 / (i + 1), activation=3.0 + (i * 7) % 11,
        gradient=0.1 / (i + 1), consistency=max(0.0, 1 - i / 20), critical=i < critical, known=i == 0,
    )  # fmt: skip


def _control(kind: str, seed: int, k: int | None) -> Control:
    if kind == "magnitude" and seed == 0:
        return Control(kind=kind, seed=seed, k=k or 0, collapsed=None)
    numbers: dict[str, Any] = {"ppl_reference": 1.2 + 0.1 * seed, "nll_reference": math.log(1.2 + 0.1 * seed)}
    return Control(kind=kind, seed=seed, k=k or 0, collapsed=False, evaluation=f"c{kind}{seed}", **numbers)


def _places(critical: int, experts: int) -> list[SiteSummary]:
    return [
        SiteSummary(
            component=component, role=role, layer=layer, expert=expert, width=100, mean=0.01, highest=1.0 / (1 + layer),
            reachable=component != "vision" or layer < 3,
            critical=critical if (component, role, layer) == ("language", "gate", 0) else 0,
        )
        for component, roles in (("vision", ("hidden", "down")), ("language", ("gate", "up", "hidden", "down")))
        for layer in range(4) for role in roles for expert in (range(experts) if experts else [None])
    ]  # fmt: skip


def _sample(i: int, samples: int, pictures: bool, category: Callable[[int], str | None]) -> SampleEntry:
    return SampleEntry(
        id=f"s{i}", category=category(i), reference=None, prompt="Describe this image in detail.", ranked_on=i >= samples,
        measured_on=i < samples, picture=f"pictures/{i}.jpg" if pictures else None,
    )  # fmt: skip
