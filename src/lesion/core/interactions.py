"""What two neurons do together, beside what each does alone.

Harm is the rise of a sample's mean NLL, in nats. Of two neurons, with ``a`` and ``b`` the harms alone, ``both`` that of masking
both, and ``greater`` and ``lesser`` those of the two by their mean:

==============  ================================================================================================
``synergy``     ``both`` is surely more than ``a + b``, and more than twice that: they matter together
``redundancy``  ``both`` is surely less than ``a + b``: the lesser adds less than half of what it does alone
``masking``     ``both`` is surely less than ``greater``, and at most half of it: the second takes the harm away
``none``        nothing of that, or the samples do not tell
==============  ================================================================================================

*Surely* is the one-sided 95 % bound of the mean over samples. Harms below :data:`FLOOR` are taken for none: a ratio of two of
them says nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lesion.core.statistics import mean_bounds

Interplay = Literal["synergy", "redundancy", "masking", "none"]
FLOOR = 0.05
"""Nats."""
FAR_MORE, HARDLY_MORE, GONE = 2.0, 0.5, 0.5


def interplay(a: np.ndarray, b: np.ndarray, both: np.ndarray) -> Interplay:
    """What two neurons are to each other.

    Args:
        a: Each sample's harm with the first masked alone, ``[samples]``.
        b: With the second.
        both: With both.
    """
    greater, lesser = (a, b) if a.mean() >= b.mean() else (b, a)
    together = float(both.mean())
    if max(float(greater.mean()), together) < FLOOR:
        return "none"
    if float(mean_bounds(both - greater)[1]) < 0 and together <= GONE * greater.mean():
        return "masking"
    low, high = (float(bound) for bound in mean_bounds(both - a - b))
    alone = max(float(a.mean()), 0.0) + max(float(b.mean()), 0.0)
    if low > 0 and together > FAR_MORE * alone:
        return "synergy"
    if high < 0 and lesser.mean() >= FLOOR and together - greater.mean() < HARDLY_MORE * lesser.mean():
        return "redundancy"
    return "none"
