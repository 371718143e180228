"""Does the intact model work on this data at all? A collapse of what never stood says little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lesion.core.curve import Curve
from lesion.core.modes import NOT_TEXT_SHARE, REPETITION_SHARE, expected_word, first_word
from lesion.core.outcome import SampleOutcome
from lesion.core.statistics import FEWEST, mean_bounds
from lesion.data.samples import Sample

UNSURE = 20.0
"""Perplexity of its own greedy answers above which a model is not sure of a word that it says."""
COIN = 0.5
"""Share of yes/no questions that a coin answers right."""
THUMBNAIL, SAME = 16, 12
"""Two images are near copies when no channel of their 16 x 16 thumbnails differs by more than 12 of 255."""


def complaints(curve: Curve, samples: Sequence[Sample]) -> list[str]:
    """What is wrong with the intact model's answers, one clause each; empty where nothing is.

    Args:
        curve: Its first point is the intact model.
        samples: That it was measured on.
    """
    intact, outcomes = curve.intact, curve.intact.outcomes
    wrong: list[str] = []
    own = intact.metrics["ppl_generated"]
    if own is None or own > UNSURE:
        wrong.append(f"it is unsure of its own answers (perplexity {'not finite' if own is None else f'{own:,.3g}'})")
    degenerate = sum(
        not o.answer.strip() or o.repeated >= REPETITION_SHARE or o.not_text >= NOT_TEXT_SHARE for o in outcomes
    )
    if degenerate > len(outcomes) / 2:
        wrong.append(f"{degenerate} of {len(outcomes)} intact answers are empty, repetition or no text")
    questions = {s.prompt for s in samples}
    if len(outcomes) >= FEWEST and len(questions) == 1 and len({o.answer for o in outcomes}) == 1:
        wrong.append(f"it gives the same answer to all {len(outcomes)} samples")
    right = [float(o.correct) for o in outcomes if o.correct is not None]
    if len(right) == len(outcomes) >= FEWEST:
        # The answers are yes and no, which describe no picture.
        if mean_bounds(np.array(right) - COIN)[0] <= 0:
            wrong.append(f"it answers yes/no questions no better than a coin ({100 * np.mean(right):.0f} % right)")
    elif _answers_right(outcomes, samples):
        pass  # one word describes no picture, and it is the right one
    elif intact.clip is not None and curve.chance is not None and len(outcomes) >= FEWEST:
        gap = intact.clip - curve.chance
        if mean_bounds(gap)[0] <= 0:
            wrong.append(
                f"its answers fit their own images no better than other images (CLIP score {intact.clip.mean():.1f}, "
                f"chance {curve.chance.mean():.1f})"
            )
    return wrong


def _answers_right(outcomes: Sequence[SampleOutcome], samples: Sequence[Sample]) -> bool:
    """Whether answers of one word are right beyond sampling noise more often than any answer that is always the same."""
    words = {s.id: expected_word(s.reference) for s in samples}
    expected = [words.get(o.id) for o in outcomes]
    if None in expected or len(outcomes) < FEWEST:
        return False
    right = np.array([float(first_word(o.answer) == word) for o, word in zip(outcomes, expected, strict=True)])
    (_, most), = Counter(expected).most_common(1)
    return bool(mean_bounds(right - most / len(right))[0] > 0)


def near_copies(samples: Sequence[Sample]) -> int:
    """How many of the samples have an image that is nearly the same as an earlier one's, with the same prompt."""
    seen: list[tuple[str | None, np.ndarray]] = []
    copies = 0
    for sample in samples:
        if sample.image is None:
            continue
        small = np.asarray(sample.image.convert("RGB").resize((THUMBNAIL, THUMBNAIL)), dtype=np.int16)
        if any(prompt == sample.prompt and np.abs(small - other).max() <= SAME for prompt, other in seen):
            copies += 1
        else:
            seen.append((sample.prompt, small))
    return copies
