"""Metrics of one answer, and of many; pure functions of numbers and texts.

Perplexities are kept as mean negative log-likelihood (natural logarithm) and token count, and only shown as
``exp(mean)``, so that one that overflows is still a number that can be compared. A value that is not finite is recorded
as None, never as NaN.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

Mode = Literal["intact", "degraded", "off-topic", "repetition", "gibberish", "empty"]
MODES: tuple[Mode, ...] = get_args(Mode)

NGRAM = 3
REPETITION_SHARE = 0.3
"""An answer is a repetition when this share of its 3-grams has been said before."""
NOT_TEXT_SHARE = 0.3
"""An answer is gibberish when this share of it is not text ..."""
GIBBERISH_RATIO = 10.0
"""... or when the intact model finds it this many times more perplexing than its own answer."""
CHANCE_MARGIN = 0.1
"""A CLIP score is at its chance level when at most this share of its distance from chance is left."""


@dataclass(frozen=True)
class Likelihood:
    """Mean negative log-likelihood of ``tokens`` tokens; ``nll`` is None where it is not finite."""

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


def repeated_ngrams(ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of an answer's n-grams that it has said before, 0 to 1; 0 for answers shorter than n tokens."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def token_agreement(ids: Sequence[int], reference: Sequence[int]) -> float:
    """Share of positions with the same token, of the longer of the two; 1 for two empty ones."""
    longest = max(len(ids), len(reference))
    same = sum(a == b for a, b in zip(ids, reference, strict=False))
    return same / longest if longest else 1.0


def not_text(text: str, tokens: int, special: int) -> float:
    """Share of an answer that is not text: replacement and control characters, and special tokens in its midst.

    Args:
        text: The answer, decoded without its special tokens.
        tokens: Tokens of the answer, without the end token.
        special: How many of them are special tokens.
    """
    bad = sum(c == "\ufffd" or (unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\n\t\r") for c in text)
    return min(1.0, (bad + special) / max(tokens, 1))


@dataclass(frozen=True)
class Judged:
    """One sample's answer under one mask, with everything measured of it.

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

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Judged:
        """From :meth:`as_dict`."""
        parts = {name: Likelihood(**data[name]) for name in ("reference", "generated", "generated_intact")}
        return cls(**{**data, **parts})


def mode_of(
    text: str,
    exact: bool,
    repeated: float,
    strange: float,
    generated_intact: Likelihood,
    baseline: Likelihood,
    clip: float | None,
    chance: float | None,
    intact_clip: float | None,
) -> Mode:
    """Names what became of an answer; the first that fits of empty, intact, repetition, gibberish, off-topic, degraded.

    Args:
        text: The answer.
        exact: Whether it is the intact answer.
        repeated: Share of repeated 3-grams.
        strange: Share that is not text.
        generated_intact: Likelihood of the answer under the intact model.
        baseline: Likelihood of the intact answer under the intact model.
        clip: The answer's CLIP score; None without a CLIP model (then nothing is off-topic).
        chance: The sample's chance level.
        intact_clip: The intact answer's CLIP score.
    """
    if not text.strip():
        return "empty"
    if exact:
        return "intact"
    if repeated >= REPETITION_SHARE:
        return "repetition"
    if generated_intact.nll is None or strange >= NOT_TEXT_SHARE:
        return "gibberish"
    if generated_intact.nll - (baseline.nll or 0.0) >= math.log(GIBBERISH_RATIO):
        return "gibberish"
    if clip is None or chance is None or intact_clip is None:
        return "degraded"
    return "off-topic" if clip <= chance + CHANCE_MARGIN * max(intact_clip - chance, 0.0) else "degraded"


def summarise(judged: Sequence[Judged]) -> dict[str, float | None]:
    """The metrics of a set of answers, by the names that ``result.json`` uses."""
    reference, generated, intact = (
        pool([getattr(j, name) for j in judged]) for name in ("reference", "generated", "generated_intact")
    )
    clips = [j.clip for j in judged if j.clip is not None]
    kls = [j.kl for j in judged]
    return {
        "ppl_reference": perplexity(reference),
        "nll_reference": reference.nll,
        "ppl_generated": perplexity(generated),
        "nll_generated": generated.nll,
        "ppl_generated_intact": perplexity(intact),
        "nll_generated_intact": intact.nll,
        "clip_score": float(np.mean(clips)) if clips else None,
        "kl": None if any(k is None for k in kls) else float(np.mean([k for k in kls if k is not None])),
        "exact_match": float(np.mean([j.exact for j in judged])),
        "token_agreement": float(np.mean([j.agreement for j in judged])),
        "repeated_ngrams": float(np.mean([j.repeated for j in judged])),
        "not_text": float(np.mean([j.not_text for j in judged])),
        "empty": float(np.mean([j.mode == "empty" for j in judged])),
    }


def mode_shares(judged: Sequence[Judged]) -> Mapping[str, float]:
    """Mode -> share of answers, every mode named."""
    return {mode: sum(j.mode == mode for j in judged) / max(len(judged), 1) for mode in MODES}
