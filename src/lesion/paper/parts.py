"""The experiments in the order of the summary."""

from __future__ import annotations

from collections.abc import Callable

from lesion.paper.categories import categories
from lesion.paper.collapse_modes import collapse_modes
from lesion.paper.expected import expected
from lesion.paper.luck import luck
from lesion.paper.masks import masks
from lesion.paper.methods import methods
from lesion.paper.part import Part
from lesion.paper.stability import stability
from lesion.paper.subject import Subject
from lesion.paper.two_stages import two_stages
from lesion.paper.verdict import judge
from lesion.paper.where import where

PARTS: tuple[Callable[[Subject], Part], ...] = (
    where, two_stages, collapse_modes, categories, methods, masks, luck, stability, judge, expected,
)  # fmt: skip
"""What a model's notes say is complete only after the others, so the verdict comes late."""
