"""The table of metrics: every number that is reported of an evaluation, with its name, unit and format in one place.

A metric is a function of one sample's outcome, registered under a name; it then appears in ``result.json``, in tables, in
the terminal and in the report::

    @register_metric("words", "Words an answer", better="higher", format="number")
    def words(outcome: SampleOutcome) -> float:
        return len(outcome.answer.split())

Perplexities are kept as mean negative log-likelihood (natural logarithm) and token count and pooled over tokens, so that
one that overflows is still a number that can be compared. A value that is not finite is recorded as None, never as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lesion.core.outcome import COLLAPSED_MODES, Likelihood, SampleOutcome, perplexity, pool

Value = Callable[[SampleOutcome], "float | bool | Likelihood | None"]
Format = Literal["perplexity", "nats", "score", "share", "number"]


@dataclass(frozen=True)
class Metric:
    """One number that is reported.

    Attributes:
        name: In files.
        label: For people.
        value: Of one sample: a number, None where it was not measured or is not finite, or a likelihood, which is pooled over
            tokens instead of averaged over samples.
        better: Whether more or less of it is better.
        unit: "" for none.
        format: How it is written.
        missing: What None means.
        headline: Whether it belongs in a short table.
    """

    name: str
    label: str
    value: Value
    better: Literal["higher", "lower"]
    unit: str = ""
    format: Format = "number"
    missing: str = "not measured"
    headline: bool = False

    def of(self, outcomes: Sequence[SampleOutcome]) -> float | None:
        """The value of many samples: the mean, or the perplexity of all tokens. None if any sample has none."""
        values = [self.value(outcome) for outcome in outcomes]
        likelihoods = [v for v in values if isinstance(v, Likelihood)]
        if likelihoods:
            pooled = pool(likelihoods)
            return pooled.nll if self.format == "nats" else perplexity(pooled)
        numbers = [float(v) for v in values if v is not None and not isinstance(v, Likelihood)]
        if len(numbers) < len(values) or not numbers:
            return None
        mean = float(np.mean(numbers))
        return mean if math.isfinite(mean) else None

    def show(self, value: float | None, missing: str | None = None) -> str:
        """A value as people read it.

        Args:
            value: As :meth:`of` returns it.
            missing: Instead of the metric's own word for None.
        """
        if value is None or not math.isfinite(value):
            return self.missing if missing is None else missing
        if self.format == "share":
            return f"{100 * value:.0f} %"
        if self.format == "score":
            return f"{value:.1f}"
        return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:.1e}"


METRICS: dict[str, Metric] = {}
"""By name, in the order in which they are shown."""


def register_metric(
    name: str,
    label: str,
    better: Literal["higher", "lower"],
    unit: str = "",
    format: Format = "number",
    missing: str = "not measured",
    headline: bool = False,
) -> Callable[[Value], Value]:
    """Adds a function of one sample's outcome to the table; see :class:`Metric`.

    Raises:
        ValueError: The name is taken.
    """

    def add(value: Value) -> Value:
        if name in METRICS:
            raise ValueError(f"a metric named {name!r} is registered already")
        METRICS[name] = Metric(name, label, value, better, unit, format, missing, headline)
        return value

    return add


def _register_likelihood(name: str, label: str, part: Callable[[SampleOutcome], Likelihood]) -> None:
    register_metric(f"ppl_{name}", f"perplexity of {label}", "lower", "", "perplexity", "not finite", True)(part)
    register_metric(f"nll_{name}", f"NLL of {label}", "lower", "nats", "nats", "not finite")(part)


_register_likelihood("reference", "the intact answers", lambda o: o.reference)
_register_likelihood("generated", "its own answers", lambda o: o.generated)
_register_likelihood("generated_intact", "its answers, by the intact model", lambda o: o.generated_intact)
register_metric("clip_score", "CLIP score", "higher", "", "score", headline=True)(lambda o: o.clip)
register_metric("kl", "KL from the intact model", "lower", "nats", missing="not finite")(lambda o: o.kl)
register_metric("exact_match", "answers that are the intact ones", "higher", format="share")(lambda o: o.exact)
register_metric("token_agreement", "token agreement with intact", "higher", format="share", headline=True)(
    lambda o: o.agreement
)
register_metric("repeated_ngrams", "repeated 3-grams", "lower", format="share", headline=True)(lambda o: o.repeated)
register_metric("not_text", "share that is not text", "lower", format="share")(lambda o: o.not_text)
register_metric("empty", "empty answers", "lower", format="share")(lambda o: o.mode == "empty")
register_metric("collapsed_modes", "collapsed answers", "lower", format="share")(lambda o: o.mode in COLLAPSED_MODES)
register_metric("accuracy", "yes/no accuracy", "higher", format="share")(lambda o: o.correct)


def summarise(outcomes: Sequence[SampleOutcome]) -> dict[str, float | None]:
    """Every metric of a set of answers, by the names that ``result.json`` uses."""
    return {name: metric.of(outcomes) for name, metric in METRICS.items()}


def headline(measured: dict[str, float | None]) -> list[Metric]:
    """The metrics of a short table, without those that were not measured."""
    shown = [m for m in METRICS.values() if m.headline and m.name in measured]
    return [m for m in shown if measured[m.name] is not None or m.missing != "not measured"]
