"""lesion: finds the handful of neurons that a vision-language model cannot live without, and proves it.

>>> from lesion import Study
>>> result = Study("tiny-llava", role="gate").run()
>>> print(result.verdict, result.minimal_set)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesion.collapse import Collapse
    from lesion.curve import Curve, Point
    from lesion.errors import LesionError
    from lesion.importance import Importance
    from lesion.masking import mask
    from lesion.models.discovery import discover
    from lesion.models.loading import load
    from lesion.neurons import Neuron, NeuronSet
    from lesion.ranking import Ranking
    from lesion.result import Result
    from lesion.scorers import ScoreOptions
    from lesion.scoring import score
    from lesion.sites import Site, Sites
    from lesion.study import Study

_HOME = {
    "Collapse": "collapse", "Curve": "curve", "Importance": "importance", "LesionError": "errors", "Neuron": "neurons",
    "NeuronSet": "neurons", "Point": "curve", "Ranking": "ranking", "Result": "result", "ScoreOptions": "scorers",
    "Site": "sites", "Sites": "sites", "Study": "study", "discover": "models.discovery", "load": "models.loading",
    "mask": "masking", "score": "scoring",
}  # fmt: skip

__all__ = [
    "Collapse", "Curve", "Importance", "LesionError", "Neuron", "NeuronSet", "Point", "Ranking", "Result",
    "ScoreOptions", "Site", "Sites", "Study", "discover", "load", "mask", "score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Names are imported when they are asked for, so that `import lesion` takes no time and does not import torch.
    if name not in _HOME:
        raise AttributeError(f"module 'lesion' has no attribute {name!r}")
    return getattr(import_module(f"lesion.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
