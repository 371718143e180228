"""A :class:`Part`: one experiment's typed result, which every reader gets in the form that they want."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from lesion.core import tables
from lesion.core.tables import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Part(ABC):
    """What one of the experiments found on one model.

    Attributes:
        name: Of its table and figure files.
        title: Of its section.
        model: The model that it was made on.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    model: str

    @abstractmethod
    def words(self) -> list[str]:
        """What it says, in sentences; the answer first."""

    @abstractmethod
    def table(self) -> Rows:
        """Its main table, one dictionary a row, the same columns in each."""

    def more_tables(self) -> dict[str, Rows]:
        """Its other tables, by what is appended to its name."""
        return {}

    @abstractmethod
    def plot(self) -> Figure:
        """Its figure."""

    def _repr_html_(self) -> str:
        from lesion.report.figures import encode

        picture = base64.b64encode(encode(self.plot(), "png")).decode()
        said = "".join(f"<p>{tables.escape(line)}</p>" for line in self.words())
        more = "".join(f"<h4>{tables.escape(n)}</h4>{tables.html(rows)}" for n, rows in self.more_tables().items())
        return (
            f"<h3>{tables.escape(f'{self.title}: {self.model}')}</h3>{said}{tables.html(self.table())}{more}"
            f'<img alt="{tables.escape(self.title)}" style="max-width: 100%" src="data:image/png;base64,{picture}">'
        )
