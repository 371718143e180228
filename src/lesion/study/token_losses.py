"""At which tokens of the reference answers a critical set is missed: the NLL of each, intact and masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lesion.ablation.units import Request
from lesion.core.neurons import NeuronSet
from lesion.study.explanation import TokenLosses
from lesion.study.run import Run

SAMPLES = 8
"""Of so many samples at most."""


def token_losses(run: Run, neurons: NeuronSet) -> list[TokenLosses]:
    """Reads the reference answers of the first samples that a study measures on, with and without the study's mask.

    Args:
        run: Open.
        neurons: What is masked.
    """
    evaluator, intervention, tokenizer = run.ablation.evaluator, run.ablation.intervention, run.session.vlm.tokenizer
    requests = [Request(NeuronSet(), intervention), Request(neurons, intervention)]
    found = {place: losses for group in evaluator.tokens(requests) for place, losses in group.items()}
    references = [run.session.targets[sample.id] for sample in evaluator.samples]
    rows = zip(evaluator.samples, references, found[0], found[1], strict=True)
    return [
        TokenLosses(
            sample=sample.id, tokens=pieces(tokenizer, reference.ids), intact=_finite(intact), masked=_finite(masked)
        )
        for sample, reference, intact, masked in list(rows)[:SAMPLES]
    ]  # fmt: skip


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of all of them.

    Where several tokens are one character, the last of them adds it, and the others nothing.
    """
    texts = [""]
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False)
        unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids)
        texts.append(texts[-1] if unfinished else text)
    return [after[len(before) :] for before, after in pairwise(texts)]


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
