"""Collapse modes: what became of an answer, named by what can be measured of it.

An answer is ``intact`` when nothing is lost: it is the intact answer, or a paraphrase that the intact model itself finds
about as likely and that fits the picture as well. ``degraded`` answers still tell something of their sample; the other
modes tell nothing. docs/concepts.md has an example of each.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from lesion.core.outcome import Likelihood, Mode

NGRAM = 3
REPETITION_SHARE = 0.3
"""An answer is a repetition when this share of its 3-grams has been said before."""
NOT_TEXT_SHARE = 0.3
"""An answer is gibberish when this share of it is not text ..."""
GIBBERISH_RATIO = 10.0
"""... or when the intact model finds it this many times more perplexing than its own answer."""
PARAPHRASE_RATIO = 2.0
"""Another wording is a paraphrase when the intact model finds it at most this many times as perplexing as its own answer ..."""
PARAPHRASE_MARGIN = 0.1
"""... and when it has lost at most this share of the CLIP score's distance from chance."""
CHANCE_MARGIN = 0.1
"""A CLIP score is at its chance level when at most this share of its distance from chance is left."""

COLOURS: dict[Mode, str] = {
    "intact": "#56B4E9", "degraded": "#009E73", "off-topic": "#F0E442", "repetition": "#E69F00", "gibberish": "#D55E00",
    "empty": "#000000",
}  # fmt: skip
"""One colour a mode, in every figure and report: Okabe and Ito's, told apart by the colour-blind."""
MEANINGS: dict[Mode, str] = {
    "intact": "the intact answer, or a paraphrase that is as likely and fits the picture as well",
    "degraded": "fluent and about the picture, but less than the intact answer",
    "off-topic": "fluent, and no more about this picture than about any other",
    "repetition": "the same few words again and again",
    "gibberish": "no text, or text that the intact model finds ten times as perplexing",
    "empty": "nothing",
}
"""One line a mode, for legends."""


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


def yes_or_no(text: str | None) -> bool | None:
    """Whether a text says yes (True) or no (False), by its first word; None where it says neither."""
    return {"yes": True, "no": False}.get(first_word(text))


def first_word(text: str | None) -> str:
    """The first word in lower case, without punctuation; empty where there is none."""
    words = (text or "").lower().split()
    return words[0].strip(".,;:!?") if words else ""


def expected_word(reference: str | None) -> str | None:
    """The first word of a right answer: yes or no, or the whole of a one-word reference; None where it cannot be judged so."""
    one = len((reference or "").split()) == 1 or yes_or_no(reference) is not None
    return first_word(reference) or None if one else None


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
    """Names what became of an answer.

    The first that fits of: empty, intact (the same text), repetition, gibberish, off-topic, intact (a paraphrase), degraded.

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
    surprise = generated_intact.nll - (baseline.nll or 0.0)
    if surprise >= math.log(GIBBERISH_RATIO):
        return "gibberish"
    likely = surprise <= math.log(PARAPHRASE_RATIO)
    if clip is None or chance is None or intact_clip is None:
        return "intact" if likely else "degraded"
    distance = intact_clip - chance
    # Where the intact answer itself scores no better than chance, the CLIP score can tell nothing.
    if distance <= 0:
        return "intact" if likely else "degraded"
    if clip <= chance + CHANCE_MARGIN * distance:
        return "off-topic"
    return "intact" if likely and clip >= intact_clip - PARAPHRASE_MARGIN * distance else "degraded"
