"""A :class:`Part`: one experiment's typed result, which every reader gets in the form that they want."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lesion.core import tables
from lesion.core.metrics import METRICS
from lesion.core.outcome import MODES
from lesion.core.tables import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOR_PROGRAMS = (*tables.TRACE, "k_star_low", "k_star_high", "undecided_k")
"""Columns that only the CSV files have: other columns say the same in words, or they trace a number to its line."""
HEADS = {"k_star": "k*", "stage1_k": "stage 1 from k", "interval": "95 % interval of k*", "share": "k* as a share"}


class Part(ABC):
    """What one of the experiments shows of one model.

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
        words = "".join(f"<p>{tables.escape(line)}</p>" for line in self.words())
        more = "".join(
            f"<h4>{tables.escape(name)}</h4>{tables.html(for_people(rows))}" for name, rows in self.more_tables().items()
        )
        return (
            f"<h3>{tables.escape(f'{self.title}: {self.model}')}</h3>{words}{tables.html(for_people(self.table()))}{more}"
            f'<img alt="{tables.escape(self.title)}" style="max-width: 100%" src="data:image/png;base64,{picture}">'
        )


def for_people(rows: Rows) -> Rows:
    """A table for the eye: metrics under their labels and in their formats, without what only programs need."""
    return [dict(_column(name, value) for name, value in row.items() if name not in FOR_PROGRAMS) for row in rows]


def of_metrics(metrics: Mapping[str, float | None], *names: str) -> dict[str, float | None]:
    """Some of an evaluation's metrics, as columns."""
    return {name: metrics[name] for name in names}


def _column(name: str, value: Any) -> tuple[str, Any]:
    if name in MODES:
        return name, None if value is None else f"{100 * value:.0f} %"
    for metric in METRICS.values():
        before, match, after = name.partition(metric.name)
        if match and before in ("", "intact_") and after in ("", "_low", "_high", "_chance"):
            words = [before.strip("_"), metric.label, {"_low": "(low)", "_high": "(high)", "_chance": "at chance"}.get(after)]
            return " ".join(word for word in words if word), metric.show(value)
    if name == "share":
        return HEADS[name], None if value is None else f"{100 * value:.3g} %"
    return HEADS.get(name, name), value
