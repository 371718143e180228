"""``manifest.json``: under what conditions a run was made."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lesion.data import Sample, digest
from lesion.models.vlm import VisionLanguageModel
from lesion.options import StudyOptions
from lesion.rundir import MANIFEST, RunDirectory

_PACKAGES = ("lesion", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")


def manifest(
    run: RunDirectory,
    options: StudyOptions,
    vlm: VisionLanguageModel,
    fingerprint: str,
    ranked: Sequence[Sample],
    measured: Sequence[Sample],
    finished: bool = False,
) -> dict[str, Any]:
    """What goes into the manifest; ``started`` and the number of starts are carried over from the one that is there."""
    before = run.read_json(MANIFEST) or {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        **conditions(vlm, fingerprint),
        "command": sys.argv,
        "platform": platform.platform(),
        "threads": os.cpu_count(),
        "seed": options.seed,
        "data": {
            "source": options.data,
            "ranked_on": [s.id for s in ranked],
            "measured_on": [s.id for s in measured],
            "ranked_digest": digest(ranked),
            "measured_digest": digest(measured),
        },
        "started": before.get("started", now),
        "starts": before.get("starts", 0) + (0 if finished else 1),
        "finished": now if finished else None,
    }


def conditions(vlm: VisionLanguageModel, fingerprint: str) -> dict[str, Any]:
    """With what a model was run: versions, device, dtype, and which model it is."""
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
        "device": str(vlm.device),
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "model": {
            "name": vlm.name,
            "class": type(vlm.model).__name__,
            "fingerprint": fingerprint,
            "revision": getattr(vlm.model.config, "_commit_hash", None),
            "parameters": sum(p.numel() for p in vlm.model.parameters()),
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
