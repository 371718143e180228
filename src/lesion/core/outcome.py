"""A :class:`SampleOutcome`: one sample's answer with some neurons masked, and everything measured of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from lesion.core.parsing import short

Mode = Literal["intact", "degraded", "off-topic", "repetition", "gibberish", "empty"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""What became of an answer, from unharmed to nothing; :func:`lesion.core.modes.mode_of` decides."""
COLLAPSED_MODES: tuple[Mode, ...] = ("off-topic", "repetition", "gibberish", "empty")
"""Modes in which an answer tells nothing about its sample."""


@dataclass(frozen=True)
class Likelihood:
    """Mean negative log-likelihood (natural logarithm) of ``tokens`` tokens; ``nll`` is None where it is not finite."""

    nll: float | None
    tokens: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Likelihood:
        """From one negative log-likelihood a token."""
        mean = float(np.mean(values)) if len(values) else 0.0
        return cls(mean if math.isfinite(mean) else None, len(values))

    @classmethod
    def from_dict(cls, data: Any) -> Likelihood:
        """As JSON has it.

        Raises:
            ValueError: It is none.
        """
        if not isinstance(data, Mapping) or not {"nll", "tokens"} <= set(data):
            raise ValueError(f"no likelihood: {short(data)}")
        nll, tokens = data["nll"], data["tokens"]
        if not (nll is None or _is_number(nll)) or type(tokens) is not int or not 0 <= tokens < 2**31:
            raise ValueError(f"no likelihood: {short(data)}")
        return cls(nll, tokens)


def pool(parts: Sequence[Likelihood]) -> Likelihood:
    """All parts' tokens together; not finite if any part is not."""
    tokens = sum(p.tokens for p in parts)
    if any(p.nll is None for p in parts):
        return Likelihood(None, tokens)
    return Likelihood(sum(p.nll * p.tokens for p in parts if p.nll is not None) / max(tokens, 1), tokens)


def perplexity(likelihood: Likelihood) -> float | None:
    """``exp(mean NLL)``; None where it is not finite or too large for a float."""
    if likelihood.nll is None or likelihood.nll > 709:
        return None
    return math.exp(likelihood.nll)


@dataclass(frozen=True)
class SampleOutcome:
    """One sample's answer with some neurons masked, and everything measured of it.

    Attributes:
        id: The sample.
        answer: Text.
        reference: Likelihood that the masked model gives the intact answer (``ppl_reference``).
        generated: Likelihood that the masked model gives its own answer (``ppl_generated``).
        generated_intact: Likelihood that the intact model gives that answer (``ppl_generated_intact``).
        clip: CLIP score, 0 to 100; None without a CLIP model.
        kl: Mean over the reference's tokens of KL(intact || masked), in nats; None where it is not finite.
        agreement: Token agreement with the intact answer.
        exact: Whether the text is the intact answer's.
        repeated: Share of repeated 3-grams.
        not_text: Share that is not text.
        mode: What became of the answer.
        correct: Whether it answers a yes/no question as the data does; None where the sample asks none.
    """

    id: str
    answer: str
    reference: Likelihood
    generated: Likelihood
    generated_intact: Likelihood
    clip: float | None
    kl: float | None
    agreement: float
    exact: bool
    repeated: float
    not_text: float
    mode: Mode
    correct: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SampleOutcome:
        """From :meth:`as_dict`; fields that this version does not know are passed over.

        Raises:
            ValueError: It is none; in words.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"no outcome: {short(data)}")
        known: dict[str, Any] = {}
        for field in fields(cls):
            if field.name == "correct" and field.name not in data:
                continue  # it came later
            if field.name not in data:
                raise ValueError(f"an outcome without {field.name}")
            value = known[field.name] = data[field.name]
            if field.type == "Likelihood":
                known[field.name] = Likelihood.from_dict(value)
            elif not _FITS[field.type](value):
                raise ValueError(f"an outcome whose {field.name} is {short(value)}")
        return cls(**known)


def _is_number(value: Any) -> bool:
    """Neither infinite nor NaN, and no whole number that an array cannot hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < (2**53 if isinstance(value, int) else 1e300)


_FITS: dict[Any, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str), "bool": lambda value: isinstance(value, bool), "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "bool | None": lambda value: value is None or isinstance(value, bool), "Mode": lambda value: value in MODES,
}  # fmt: skip
"""Annotation of a field -> whether a value is what it says."""
