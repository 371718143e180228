"""LLaVA and InstructBLIP, the two models of arXiv 2512.00918, as :mod:`tests.tiny_models` builds them."""

from __future__ import annotations

from collections.abc import Callable

from lesion.models.vlm import VisionLanguageModel
from tests import tiny_models
from tests.families import Built
from tests.tiny_models import INTERMEDIATE, LAYERS, WIDTH

_LANGUAGE = {
    ("language", "gate"): LAYERS * INTERMEDIATE, ("language", "up"): LAYERS * INTERMEDIATE,
    ("language", "hidden"): LAYERS * INTERMEDIATE, ("language", "down"): LAYERS * WIDTH,
}  # fmt: skip


def _built(vlm: VisionLanguageModel, counts: dict[tuple[str, str], int]) -> Built:
    return Built(vlm.model, vlm.processor, counts | _LANGUAGE)


def llava() -> Built:
    """Four vision layers, of which the last is not read."""
    return _built(tiny_models.llava(), {
        ("vision", "hidden"): 4 * 20, ("vision", "down"): 4 * 16, ("connector", "hidden"): WIDTH, ("connector", "down"): WIDTH,
    })  # fmt: skip


def instructblip() -> Built:
    """Two banks in each of two Q-Former layers, of which the text's last is not read."""
    return _built(tiny_models.instructblip(), {
        ("vision", "hidden"): 2 * 20, ("vision", "down"): 2 * 16, ("qformer", "hidden"): 2 * 2 * 28,
        ("qformer", "down"): 2 * 2 * 16, ("connector", "down"): WIDTH,
    })  # fmt: skip


BUILDERS: dict[str, Callable[[], Built]] = {"llava": llava, "instructblip": instructblip}
