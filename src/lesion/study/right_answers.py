"""Right answers against k, by the kind of question: what a mask does to a task, where the data has answers of one word.

An answer is right when its first word is the data's (yes or no, or a reference of one word). All is read from the answers that
``result.json`` has, so it is there for earlier runs too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lesion.core.metrics import METRICS
from lesion.core.modes import expected_word, first_word
from lesion.core.tables import Rows
from lesion.study.result import Result

ALL, NONE = "all", "no category"
"""Names of kinds that are no category: every sample, and those without one among others that have one."""
FEWEST = 8
"""Where a category has fewer measured samples, categories are not told apart: a share of so few says little."""
GUESS = "always the same"
"""The row of what an answer without a look would get."""


@dataclass(frozen=True)
class RightAnswers:
    """The questions of one kind.

    Attributes:
        kind: The samples' category, :data:`ALL` or :data:`NONE`.
        samples: How many were measured.
        guess: Share that is right where the answer is always the same one, whichever is right most often.
        by_k: k -> share that is right.
    """

    kind: str
    samples: int
    guess: float
    by_k: dict[int, float]


def right_answers(result: Result) -> list[RightAnswers]:
    """Of each category, where there are several and each has at least :data:`FEWEST` measured samples; otherwise of all.

    Returns:
        Empty where the reference of any measured sample cannot be judged by a word.
    """
    measured = [s for s in result.sample_list if s.measured_on]
    words = {s.id: expected_word(s.reference) for s in measured}
    if not measured or None in words.values():
        return []
    members: dict[str, list[str]] = {}
    for sample in measured:
        members.setdefault(sample.category or "", []).append(sample.id)
    said = {p.k: {o["id"]: first_word(o["answer"]) for o in p.outcomes} for p in result.curve}

    def of(kind: str, ids: Sequence[str]) -> RightAnswers:
        (_, most), = Counter(words[i] for i in ids).most_common(1)
        shares = {k: sum(answers.get(i) == words[i] for i in ids) / len(ids) for k, answers in said.items()}
        return RightAnswers(kind, len(ids), most / len(ids), shares)

    if len(members) == 1 or min(map(len, members.values())) < FEWEST:
        return [of(ALL, list(words))]
    return [of(kind or NONE, ids) for kind, ids in sorted(members.items())]


def right_rows(result: Result) -> Rows:
    """:func:`right_answers` as a table for people, a row a k; the last row is what an answer without a look would get."""
    kinds, share = right_answers(result), METRICS["accuracy"]
    if not kinds:
        return []
    names = {k.kind: f"{k.kind} ({k.samples:,})" for k in kinds}
    rows: Rows = [{"k": f"{k:,}", **{names[r.kind]: share.show(r.by_k[k]) for r in kinds}} for k in kinds[0].by_k]
    return [*rows, {"k": GUESS, **{names[r.kind]: share.show(r.guess) for r in kinds}}]
