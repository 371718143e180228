"""The embedded models and the scenes that they were trained on."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = ("tiny-llava", "tiny-instructblip", "tiny-clip")
"""Whole models."""
PARTS = ("smol-llava",)
"""Vision tower and projector of a model whose language model another package carries (:mod:`lesion.models.packaged`)."""


def folder(name: str) -> Path:
    """Where an embedded model's weights, processor and card are.

    Raises:
        KeyError: No embedded model has that name.
    """
    if name not in EMBEDDED + PARTS:
        raise KeyError(name)
    return Path(__file__).parent / name
