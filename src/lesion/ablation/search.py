"""How searches ask: a search is a generator that yields batches of questions and is sent the answers (ask and tell).

The search decides what is worth knowing, and whoever drives it how that is computed: one at a time, many in one pass, or
elsewhere. A search is told how much ``room`` there is, that is how many questions cost little more than one, and may then ask
ahead; what it returns does not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Outcome = TypeVar("Outcome")
Search = Generator[list[Question], list[Answer], Outcome]


def drive(search: Search[Question, Answer, Outcome], answer: Callable[[list[Question]], list[Answer]]) -> Outcome:
    """Runs a search to its end.

    Args:
        search: Yields batches of questions.
        answer: Answers a batch, in its order.

    Returns:
        What the search returns.
    """
    try:
        questions = next(search)
        while True:
            questions = search.send(answer(questions))
    except StopIteration as end:
        return end.value
