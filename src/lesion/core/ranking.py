"""A :class:`Ranking`: neurons in descending importance, the same order on every machine."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from lesion.core.display import FEW, HtmlTable
from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.files import write_text
from lesion.core.importance import Importance
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site, Sites
from lesion.core.tables import Rows, to_frame


class Ranking(HtmlTable):
    """Neurons by descending importance; ties by (site, index).

    ``ranking[0]`` is the most important neuron, ``ranking[:20]`` the set of the first twenty.

    Args:
        importance: The scores.
        sites: The sites whose neurons are ranked together. Unreachable ones are left out: they have no effect.

    Attributes:
        name: Of the scorer, or what else ordered the neurons.
        sites: The sites whose neurons could be ranked; controls are drawn from these.
        scores: Descending, float64 ``[neurons]``.
        importance: None for a ranking that was read or given.

    Raises:
        OptionError: No reachable site is among them, or a score is not a number.
    """

    def __init__(self, importance: Importance, sites: Sites) -> None:
        self.importance: Importance | None = importance
        self.name, self.sites = importance.scorer, Sites(s for s in sites if s.reachable)
        if not len(self.sites):
            raise OptionError("none of the chosen sites can reach the model's answer; there is nothing to rank")
        values = np.concatenate([importance.values(s) for s in self.sites])
        if not np.isfinite(values).all():
            raise OptionError(f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite")
        owner = np.repeat(np.arange(len(self.sites)), [s.width for s in self.sites])
        index = np.concatenate([np.arange(s.width) for s in self.sites])
        # The last key is the first to sort by.
        order = np.lexsort((index, owner, -values))
        self._owner, self._index, self.scores = owner[order], index[order], values[order]

    @classmethod
    def of(cls, neurons: Iterable[Neuron], sites: Sites, name: str = "given", scores: Sequence[float] | None = None) -> Ranking:
        """Neurons in an order of one's own.

        Args:
            neurons: The first to be masked first; a :class:`NeuronSet` is in order of site and index.
            sites: The sites that controls are drawn from; they hold all the neurons.
            name: What ordered them.
            scores: One a neuron; default: none are known.

        Raises:
            NeuronSetError: No neuron, the same one twice, or one of another site.
        """
        order, members = list(neurons), {site: i for i, site in enumerate(sites)}
        if not order or len(set(order)) < len(order):
            raise NeuronSetError(f"the ranking has {len(order)} neurons, {len(set(order))} different ones; expected each once")
        for neuron in order:
            if neuron.site not in members:
                raise NeuronSetError(f"{neuron} is not among the chosen sites")
        made = cls.__new__(cls)
        made.importance, made.name, made.sites = None, name, sites
        made._owner = np.array([members[n.site] for n in order])
        made._index = np.array([n.index for n in order])
        made.scores = np.full(len(order), np.nan) if scores is None else np.asarray(scores, dtype=float)
        return made

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, rank: int) -> Neuron: ...
    @overload
    def __getitem__(self, rank: slice) -> NeuronSet: ...
    def __getitem__(self, rank: int | slice) -> Neuron | NeuronSet:
        if isinstance(rank, slice):
            return self._set(self._owner[rank], self._index[rank])
        return Neuron(self.sites[int(self._owner[rank])], int(self._index[rank]))

    def _set(self, owner: np.ndarray, index: np.ndarray) -> NeuronSet:
        return NeuronSet.from_arrays({self.sites[int(i)]: index[owner == i] for i in np.unique(owner)})

    def __repr__(self) -> str:
        first = f", first {self[0]}" if len(self) else ""
        return f"Ranking({len(self):,} neurons by {self.name}{first})"

    @property
    def digest(self) -> str:
        """A hash of the order, 16 hexadecimal digits."""
        text = hashlib.sha256("|".join(site.key for site in self.sites).encode())
        text.update(self._owner.astype(np.int64).tobytes())
        text.update(self._index.astype(np.int64).tobytes())
        return text.hexdigest()[:16]

    def top(self, k: int) -> NeuronSet:
        """The k most important neurons.

        Raises:
            OptionError: k is negative or larger than the number of ranked neurons.
        """
        if not 0 <= k <= len(self):
            raise OptionError(f"k is {k}; there are {len(self)} ranked neurons")
        return self[:k]

    def rank_of(self, neuron: Neuron) -> int | None:
        """0-based rank of a neuron; None if it is not ranked."""
        at = [i for i, site in enumerate(self.sites) if site.key == neuron.site.key]
        rows = np.flatnonzero((self._owner == (at or [-1])[0]) & (self._index == neuron.index))
        return int(rows[0]) if len(rows) else None

    def table(self, limit: int | None = None) -> Rows:
        """One row a neuron: rank from 1, where it is, and its score; the first ``limit`` of them."""
        count = len(self) if limit is None else min(limit, len(self))
        return [{"rank": i + 1, **self[i].as_dict(), "score": float(self.scores[i])} for i in range(count)]

    def to_frame(self):
        """:meth:`table` as a pandas ``DataFrame``; raises as :func:`lesion.core.tables.to_frame`."""
        return to_frame(self.table())

    def _html(self) -> tuple[str, Rows, int]:
        count = min(FEW, len(self))
        rows = [{"rank": i + 1, "neuron": str(self[i]), "importance": float(self.scores[i])} for i in range(count)]
        return f"Ranking of {len(self):,} neurons by {self.name}", rows, len(self)

    # -- as a file ---------------------------------------------------------------------------------------------------
    def save(self, path: str | Path, others: Mapping[str, Importance] | None = None) -> None:
        """Writes CSV, whole or not at all: rank (from 1), the neuron, its score and consistency, and other scores."""
        extra = {name: i for name, i in (others or {}).items() if name != self.name}
        columns = {name: [i.values(s) for s in self.sites] for name, i in extra.items()}
        consistency = [] if self.importance is None else [self.importance.consistency(s) for s in self.sites]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        mixed = any(s.expert is not None for s in self.sites)
        place = ["path", "component", "role", "layer", *(["expert"] if mixed else [])]
        table.writerow(["rank", *place, "index", self.name, *(["consistency"] if consistency else []), *columns])
        for rank, (owner, index, score) in enumerate(zip(self._owner, self._index, self.scores, strict=True), start=1):
            site: Site = self.sites[int(owner)]
            table.writerow(
                [rank, *(site.location.get(name) for name in place), int(index), f"{score:.17g}"]
                + [f"{share[owner][index]:.4g}" for share in ([consistency] if consistency else [])]
                + [f"{values[owner][index]:.9g}" for values in columns.values()]
            )
        write_text(path, text.getvalue())

    @classmethod
    def load(cls, path: str | Path, sites: Sites, limit: int | None = None) -> Ranking:
        """Reads what :meth:`save` wrote, or any CSV with the columns path, role and index, most important first.

        Args:
            path: The file.
            sites: Of the model, which controls are drawn from.
            limit: Read so many neurons; None for all.

        Raises:
            OptionError: ``limit`` is not from 1 to the number of ranked neurons.
            NeuronSetError: The file cannot be read, or ranks neurons that the model does not have.
        """
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                rows = list(reader) if limit is None else [row for _, row in zip(range(max(limit, 0)), reader, strict=False)]
                columns = list(reader.fieldnames or [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = getattr(error, "strerror", None) or error
            raise NeuronSetError(f"{path} cannot be read as a ranking: {why}; expected CSV with path, role and index") from None
        if not rows and limit is None:
            raise NeuronSetError(f"{path} ranks no neuron; expected CSV with path, role and index, a line a neuron")
        if not rows or (limit is not None and limit != len(rows)):
            raise OptionError(f"k is {limit}; {path} ranks {len(rows) if limit != 0 else 'at least 1'} neurons")
        neurons = [_neuron_of(row, sites, f"{path}, line {number}") for number, row in enumerate(rows, start=2)]
        scorer = columns[columns.index("index") + 1] if columns[-1] != "index" else None
        scores = None
        if scorer is not None:
            scores = [_score(row[scorer], f"{path}, line {number}") for number, row in enumerate(rows, start=2)]
        return cls.of(neurons, sites, scorer or "given", scores)


def _neuron_of(row: Mapping[str, str], sites: Sites, where: str) -> Neuron:
    try:
        module = row["path"] if not row.get("expert") else f"{row['path']}.{row['expert']}"
        site, index = sites.get(f"{module}:{row['role']}"), int(row["index"])
    except (KeyError, ValueError, TypeError) as error:
        raise NeuronSetError(f"{where} is not a line of a ranking ({error}); expected path, role and index") from None
    if site is None:
        raise NeuronSetError(f"{where}: the model has no {row['role']} site at {module!r}; is the ranking another model's?")
    if not 0 <= index < site.width:
        raise NeuronSetError(f"{where}: {site.key} has neurons 0 to {site.width - 1}; found {index}")
    return Neuron(site, index)


def _score(text: str | None, where: str) -> float:
    try:
        return float(text or "nan")
    except (ValueError, TypeError) as error:
        raise NeuronSetError(f"{where} is not a line of a ranking ({error}); expected path, role and index") from None
