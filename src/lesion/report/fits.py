"""Whether a result is one that a page can be made of: ``result.json`` may come from anyone, and may have been edited."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lesion.core.errors import RunError
from lesion.core.parsing import short
from lesion.study.explanation import Explanation
from lesion.study.measured import Measured
from lesion.study.result import Result


def check(result: Result, explanation: Explanation | None = None) -> None:
    """Looks at what the types of its fields do not say.

    Raises:
        RunError: Parts of it do not fit together; the message names the first.
    """
    try:
        _check(result)
        if explanation is not None:
            _check_explanation(explanation)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{result.run} has a result that does not fit together ({error}); run its study again") from None


def _check(result: Result) -> None:
    curve = result.read_curve()
    ks = set(curve.ks)
    if not all(0 <= k < 2**31 for k in ks) or not curve.intact.outcomes:
        raise ValueError("the curve measures nothing")
    named = {"k_star": result.k_star, "stage1_k": result.stage1_k, "largest_k": result.largest_k}
    named |= {f"undecided {k}": k for k in result.undecided}
    for name, k in named.items():
        if k is not None and k not in ks:
            raise ValueError(f"{name} is {k}, and is not on the curve")
    if result.chance_clip is not None and len(result.chance_clip) != len(curve.intact.outcomes):
        raise ValueError("chance_clip is not one number a sample")
    if not 0 < result.neurons_total < 2**53 or not 0 < result.samples < 2**53:
        raise ValueError("it has no neurons or no samples")
    searched = result.searched
    measured = [*result.curve, *result.controls, *(() if searched is None else (*searched.candidates, *searched.controls))]
    _finite("metric", (value for entry in measured for value in _values(entry)))
    _finite("metric", (*result.baseline.values(), *result.chance.values(), *(result.chance_clip or ())))
    _finite("share", (value for point in result.curve for value in point.modes.values()))
    _finite("importance", (value for place in result.places for value in (place.mean, place.highest)))
    _finite("neuron", (v for n in result.top for v in (n.importance, n.activation, n.gradient, n.consistency)))
    category = result.options.get("category")
    if category is not None and not isinstance(category, str):
        raise ValueError(f"the category is {short(category)}")


def _check_explanation(explanation: Explanation) -> None:
    count = len(explanation.neurons)
    pairs = {pair.members for pair in explanation.pairs}
    if len(explanation.doses) != count or not {(i, j) for j in range(count) for i in range(j)} <= pairs:
        raise ValueError("its explanation has not every neuron and pair")
    if any(not len(row.tokens) == len(row.intact) == len(row.masked) for row in explanation.losses):
        raise ValueError("its explanation has not every token's loss")
    if explanation.trace is not None and not explanation.trace.layers:
        raise ValueError("its explanation traces no layer")


def _values(entry: Measured) -> Iterable[Any]:
    return entry.metrics.values()


def _finite(name: str, values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            good = abs(value) < 2**53  # an array cannot hold a larger one
        else:
            good = value is None or (isinstance(value, float) and math.isfinite(value))
        if not good:
            raise ValueError(f"a {name} is {short(value)}")
