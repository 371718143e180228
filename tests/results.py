"""Results of studies that never ran: made from numbers and texts, for the code that shows them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.outcome import Likelihood, Mode, SampleOutcome
from lesion.study.checksums import Checksums
from lesion.study.control_entry import ControlEntry, by_kind
from lesion.study.entries import criterion_entries, point_entry
from lesion.study.neuron_entry import NeuronEntry, RankedNeuron
from lesion.study.options import StudyOptions
from lesion.study.result import Result, SampleEntry, SiteSummary
from lesion.study.verdict import Verdict

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
        Evaluation(k, tuple(_outcome(i, say(i, k), n, clip, "intact" if k == 0 else mode) for i in range(samples)), f"key{k}")
        for k, n, mode in zip(ks, nll, modes, strict=True)
    ]
    chance = [10.0] * samples if clip else None
    curve = Curve(points, chance)
    options = StudyOptions.parse()
    collapse = detect_collapse(curve, 0, options.rule())
    top = [_ranked(i, collapse.k_star or 0, experts) for i in range(40)]
    critical = [NeuronEntry(**n.model_dump(include=set(NeuronEntry.model_fields))) for n in top[: collapse.k_star or 0]]
    sets = [_control(kind, seed, collapse.k_star) for kind in ("random", "layers", "magnitude") for seed in range(controls)]
    sets = sets if collapse.k_star is not None else []
    fields: dict[str, Any] = {
        "model": "made-up", "component": "language", "role": "gate", "scorer": "can", "alpha": 1.0, "samples": 2 * samples,
        "neurons_total": 400, "baseline": curve.intact.metrics, "chance": {"clip_score": 10.0 if clip else None},
        "curve": [point_entry(p, collapse) for p in points], "stage1_k": collapse.stage1_k, "k_star": collapse.k_star,
        "k_star_fraction": None if collapse.k_star is None else collapse.k_star / 400, "k_star_ci": collapse.k_star_ci,
        "largest_k": collapse.largest_k, "monotone": collapse.monotone, "undecided": list(collapse.undecided),
        "samples_needed": collapse.samples_needed, "criterion": options.rule().model_dump(), "left_out": collapse.left_out,
        "criteria": criterion_entries(curve, 0), "critical_neurons": critical, "minimal_set": critical or None,
        "minimal_verified": bool(critical), "controls": sets,
        "modes": None if collapse.k_star is None else curve.at(collapse.k_star).modes, "examples": [], "top": top,
        "places": _places(collapse.k_star or 0, experts), "known": None,
        "sample_list": [_sample(i, samples, pictures, category) for i in range(2 * samples)], "chance_clip": chance, "seed": 0,
        "complaints": [], "notes": [], "handful": bool(critical), "command": "lesion study made-up",
        "options": options.model_dump(),
        "conditions": {
            "versions": {"lesion": "0"}, "device": "cpu", "dtype": "float32", "model": {"base": "made-up", "weights": "0" * 64},
        },
        "run": "runs/made-up",
    }  # fmt: skip
    fields["verdict"] = _verdict(collapse, sets, critical, changed.get("complaints", []))
    return Result(**{**fields, **changed})


def _verdict(collapse: Collapse, sets: list[ControlEntry], critical: list[NeuronEntry], complaints: Sequence[str]) -> str:
    random = by_kind(sets).get("random")
    counts = (0, 0) if random is None else (random.drawn, random.fallen)
    layers = [(n.component, n.layer) for n in critical]
    return str(Verdict("made-up", "language", "gate", 400, collapse, layers, counts, complaints))


def save(made: Result, folder: Path) -> Path:
    """Writes a run directory: ``result.json`` and pictures."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(made.model_dump_json())
    for i, sample in enumerate(made.sample_list):
        if sample.picture is not None:
            data = io.BytesIO()
            Image.new("RGB", (224, 160), (40 * i % 256, 90, 200 - 20 * i % 200)).save(data, format="JPEG")
            (folder / f"pictures/{i}.jpg").write_bytes(data.getvalue())
    return folder


def _outcome(i: int, answer: str, nll: float, clip: bool, mode: Mode) -> SampleOutcome:
    value = Likelihood(nll + 0.01 * i if math.isfinite(nll) else None, 12)
    score = (75.0 + i if mode in ("intact", "degraded") else 9.0 + 0.1 * i) if clip else None
    return SampleOutcome(f"s{i}", answer, value, value, value, score, 0.1, 0.5, mode == "intact", 0.0, 0.0, mode)


def _ranked(i: int, critical: int, experts: int) -> RankedNeuron:
    return RankedNeuron(
        path=f"model.layers.{i % 4}.mlp.gate_proj", component="language", role="gate", layer=i % 4, index=7 * i, width=400,
        expert=i % experts if experts else None, rank=i + 1, importance=1.0 / (i + 1), activation=3.0 + (i * 7) % 11,
        gradient=0.1 / (i + 1), consistency=max(0.0, 1 - i / 20), critical=i < critical, known=i == 0,
    )  # fmt: skip


def _control(kind: str, seed: int, k: int | None) -> ControlEntry:
    if kind == "magnitude" and seed == 0:
        return ControlEntry(kind=kind, seed=seed, k=k or 0, collapsed=None)
    metrics: dict[str, Any] = {"ppl_reference": 1.2 + 0.1 * seed, "nll_reference": math.log(1.2 + 0.1 * seed)}
    return ControlEntry(kind=kind, seed=seed, k=k or 0, collapsed=False, evaluation=f"c{kind}{seed}", **metrics)


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


def rewrite(path: Path, data: Any) -> None:
    """Writes a JSON file of a run as another version of lesion would have written it: with its checksum."""
    Checksums(path.parent, mend=True).write(path.name, json.dumps(data).encode())
