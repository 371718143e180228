"""The statistics that interventions need, such as means: which scorers measure them, and what they come to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from lesion.core.errors import OptionError
from lesion.core.importance import Importance
from lesion.hooks.intervention import Intervention, Statistics
from lesion.scoring.scorers import CLASS_VALUES, VALUE

Importances = Mapping[str, Importance]
"""By scorer."""
SCORERS_OF = {"mean": (VALUE,), "class-mean": (VALUE, *CLASS_VALUES.values())}
"""Statistic of an intervention -> the scorers that measure it."""


def scorers_for(act: Intervention) -> list[str]:
    """The scorers that measure what an intervention needs.

    Raises:
        OptionError: It needs a statistic that nothing measures.
    """
    for name in act.needs:
        if name not in SCORERS_OF:
            raise OptionError(f"{act.id!r} needs the statistic {name!r}; those that are measured: {', '.join(SCORERS_OF)}")
    return [scorer for name in act.needs for scorer in SCORERS_OF[name]]


def statistics_of(act: Intervention, importances: Importances) -> Statistics:
    """What an intervention needs, from the importances by its scorers (:func:`scorers_for`)."""
    scorers_for(act)
    statistics: dict[str, dict[str, np.ndarray]] = {}
    for name in act.needs:
        overall, *classes = (importances[scorer] for scorer in SCORERS_OF[name])
        values = statistics[name] = {}
        for site in overall.sites:
            if site.key in overall.sums:  # a site that was not seen has no mean; masking it says so
                by_class = [i.values(site) for i in classes] if site.component == "language" else []
                values[site.key] = np.stack(by_class) if by_class else overall.values(site)
    return statistics


def digest_of(statistics: Statistics) -> str:
    """Statistics depend on the samples that they were measured on, so they are part of an evaluation's key."""
    text = hashlib.sha256()
    for name, by_site in statistics.items():
        for key, values in by_site.items():
            text.update(f"{name}/{key}".encode())
            text.update(np.ascontiguousarray(values).tobytes())
    return text.hexdigest()[:16]
