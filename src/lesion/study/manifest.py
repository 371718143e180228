"""``manifest.json``: under what conditions a run was made."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lesion.core.errors import RunError
from lesion.core.identity import Identity
from lesion.data.samples import Sample, digest
from lesion.models.vlm import VisionLanguageModel
from lesion.study.options import StudyOptions
from lesion.study.rundir import MANIFEST, RunDirectory

_PACKAGES = ("lesion", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")


def manifest(
    run: RunDirectory,
    options: StudyOptions,
    vlm: VisionLanguageModel,
    identity: Identity,
    samples: Iterable[Sample],
    ranked: Sequence[Sample],
    measured: Sequence[Sample],
    finished: bool = False,
) -> dict[str, Any]:
    """What goes into the manifest; ``started`` and the number of starts are carried over from the one that is there."""
    import torch

    before = run.read_json(MANIFEST) or {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        **conditions(vlm, identity),
        "command": sys.argv,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "data": {
            "source": options.data,
            "ranked_on": [s.id for s in ranked],
            "measured_on": [s.id for s in measured],
            "samples": {s.id: s.digest for s in samples},
            "ranked_digest": digest(ranked),
            "measured_digest": digest(measured),
        },
        "started": before.get("started", now),
        "starts": before.get("starts", 0) + (0 if finished else 1),
        "finished": now if finished else None,
    }


def check_same(run: RunDirectory, vlm: VisionLanguageModel, identity: Identity, samples: Sequence[Sample]) -> None:
    """Whether a run directory was made with this model and these samples; reads only.

    Raises:
        RunError: It was made with other weights, another dtype, or other samples; the message says which.
    """
    before = run.read_json(MANIFEST)
    if before is None:
        return
    try:
        measured = Identity.from_dict(before["model"])
        dtype, contents = before["dtype"], before["data"]["samples"]
    except (KeyError, TypeError):
        file = run.path / MANIFEST
        raise RunError(f"{file} is no manifest that this version of lesion reads; choose another --out") from None
    if identity.differs_from(measured):
        raise RunError(f"{run.path} was measured on {measured}; this model is {identity}; choose another --out")
    if dtype != _dtype(vlm):
        raise RunError(f"{run.path} was measured in {dtype}; this model is in {_dtype(vlm)}; choose another --out, or --dtype")
    now = {s.id: s.digest for s in samples}
    changed = [id for id in contents if contents[id] != now.get(id)] + [id for id in now if id not in contents]
    if changed:
        raise RunError(
            f"{run.path} was measured on other data: sample {changed[0]} has changed ({len(changed)} such samples); "
            "choose another --out"
        )


def _dtype(vlm: VisionLanguageModel) -> str:
    return str(vlm.model.dtype).removeprefix("torch.")


def conditions(vlm: VisionLanguageModel, identity: Identity) -> dict[str, Any]:
    """With what a model was run: versions, device, dtype, and which model it is."""
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
        "device": str(vlm.device),
        "dtype": _dtype(vlm),
        "model": {
            **identity.as_dict(),
            "class": type(vlm.model).__name__,
            "parameters": sum(p.numel() for p in vlm.model.parameters()),
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
