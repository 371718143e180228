"""What the report says behind the study's own stages: the measured search, why, and how to go on without lesion."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from lesion.core.tables import Rows
from lesion.report.explained import ExplainedView
from lesion.report.found import FoundView
from lesion.report.snippets import Repeat
from lesion.study.explanation import Explanation
from lesion.study.remedied import compared
from lesion.study.result import Result
from lesion.study.right_answers import right_rows


@dataclass(frozen=True)
class More:
    """Parts of the page that not every study has.

    Attributes:
        found: The measured search; None where there was none.
        why: What ``lesion explain`` measured; None where it has not.
        repeat: The mask as code for other libraries.
        right: Right answers against k, a row a k; empty where the data has no answers of one word.
        remedied: The study beside that of the model before lesion changed it (:func:`lesion.study.remedied.compared`); None
            where it did not.
        data: ``result.json`` as a link.
    """

    found: FoundView | None
    why: ExplainedView | None
    repeat: Repeat
    right: Rows
    remedied: tuple[list[tuple[str, str, str]], list[str]] | None
    data: str

    @classmethod
    def of(cls, result: Result, folder: Path) -> More:
        """Of a study and its run directory.

        Raises:
            RunError: What is there of an explanation cannot be read.
        """
        explanation = Explanation.load(folder)
        intact = {outcome["id"]: outcome["answer"] for outcome in result.curve[0].outcomes}
        return cls(
            None if result.searched is None else FoundView(result.searched),
            None if explanation is None else ExplainedView(explanation, intact), Repeat.of(result), right_rows(result),
            None if result.origin is None else compared(result.origin, result),
            f"data:application/json;base64,{base64.b64encode(result.model_dump_json().encode()).decode()}",
        )  # fmt: skip
