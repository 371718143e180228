"""lesion: finds the handful of neurons that a vision-language model cannot live without, and proves it.

>>> from lesion import Study
>>> result = Study("tiny-llava", role="gate").run()
>>> print(result.verdict, result.minimal_set)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesion.core.collapse import Collapse, detect_collapse
    from lesion.core.criterion import CollapseCriterion, register_criterion
    from lesion.core.curve import Curve
    from lesion.core.errors import LesionError
    from lesion.core.evaluation import Evaluation
    from lesion.core.identity import Identity
    from lesion.core.importance import Importance
    from lesion.core.metrics import register_metric
    from lesion.core.neurons import Neuron, NeuronSet
    from lesion.core.ranking import Ranking
    from lesion.core.sites import Site, Sites
    from lesion.hooks.intervene import mask
    from lesion.hooks.intervention import Intervention, register_intervention
    from lesion.models.discovery import discover, register_sites
    from lesion.models.loading import load
    from lesion.report.html import write_report
    from lesion.report.plots import plot_curve, plot_places
    from lesion.scoring.options import ScoreOptions
    from lesion.scoring.score import score
    from lesion.study.result import Result
    from lesion.study.study import Study

_HOME = {
    "Collapse": "core.collapse", "CollapseCriterion": "core.criterion", "Curve": "core.curve", "Evaluation": "core.evaluation",
    "Identity": "core.identity", "Importance": "core.importance", "Intervention": "hooks.intervention",
    "LesionError": "core.errors", "Neuron": "core.neurons", "NeuronSet": "core.neurons", "Ranking": "core.ranking",
    "Result": "study.result", "ScoreOptions": "scoring.options", "Site": "core.sites", "Sites": "core.sites",
    "Study": "study.study", "detect_collapse": "core.collapse", "discover": "models.discovery", "load": "models.loading",
    "mask": "hooks.intervene", "plot_curve": "report.plots", "plot_places": "report.plots",
    "register_criterion": "core.criterion", "register_intervention": "hooks.intervention", "register_metric": "core.metrics",
    "register_sites": "models.discovery", "score": "scoring.score", "write_report": "report.html",
}  # fmt: skip

__all__ = [
    "Collapse", "CollapseCriterion", "Curve", "Evaluation", "Identity", "Importance", "Intervention", "LesionError", "Neuron",
    "NeuronSet", "Ranking", "Result", "ScoreOptions", "Site", "Sites", "Study", "detect_collapse", "discover", "load", "mask",
    "plot_curve", "plot_places", "register_criterion", "register_intervention", "register_metric", "register_sites", "score",
    "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Names are imported when they are asked for, so that `import lesion` takes no time and does not import torch.
    if name == "__version__":
        from importlib.metadata import version

        return version("lesion")
    if name not in _HOME:
        raise AttributeError(f"module 'lesion' has no attribute {name!r}")
    return getattr(import_module(f"lesion.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
