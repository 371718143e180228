"""An :class:`Evaluation`: what was measured of a model with some neurons masked, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

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
        """From :meth:`as_dict`; fields that this version does not know are passed over."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        parts = {name: Likelihood(**data[name]) for name in ("reference", "generated", "generated_intact")}
        return cls(**{**known, **parts})


@dataclass(frozen=True)
class Evaluation:
    """A model with ``k`` neurons masked, measured on some samples.

    Attributes:
        k: How many neurons were masked; 0 for the intact model.
        outcomes: One entry a sample, in the same order in every evaluation of a curve.
        key: Of the line in ``evaluations.jsonl`` that holds it; empty where it is in no run directory.
    """

    k: int
    outcomes: tuple[SampleOutcome, ...]
    key: str = ""

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """Every registered metric (:data:`lesion.core.metrics.METRICS`) over all samples, by name."""
        from lesion.core.metrics import summarise

        return summarise(self.outcomes)

    @property
    def modes(self) -> dict[str, float]:
        """Mode -> share of the answers, every mode named."""
        return {mode: sum(o.mode == mode for o in self.outcomes) / max(len(self.outcomes), 1) for mode in MODES}

    @property
    def nll(self) -> np.ndarray:
        """Summed negative log-likelihood of each sample's reference, ``[samples]``; infinite where not finite."""
        return np.array([math.inf if o.reference.nll is None else o.reference.nll * o.reference.tokens for o in self.outcomes])

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each sample's reference, ``[samples]``."""
        return np.array([o.reference.tokens for o in self.outcomes], dtype=float)

    @property
    def clip(self) -> np.ndarray | None:
        """Each sample's CLIP score, ``[samples]``; None without a CLIP model."""
        scores = [o.clip for o in self.outcomes if o.clip is not None]
        return np.array(scores) if len(scores) == len(self.outcomes) else None
