"""How the nouns look in a notebook: a title and a short table, every text escaped."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lesion.core.tables import Rows, escape, html

FEW = 10
"""Rows of a table that are shown."""


class HtmlTable(ABC):
    """Something that a notebook shows as a table."""

    @abstractmethod
    def _html(self) -> tuple[str, Rows, int]:
        """Title, rows, and how many rows there are in all; at most those given are shown."""

    def _repr_html_(self) -> str:
        title, rows, total = self._html()
        rest = f"<p>and {total - len(rows):,} more</p>" if total > len(rows) else ""
        return f"<p><strong>{escape(title)}</strong></p>{html(rows)}{rest}"
