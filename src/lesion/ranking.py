"""A :class:`Ranking`: neurons in descending importance, the same order on every machine."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lesion.errors import NeuronSetError, OptionError
from lesion.files import write_text
from lesion.importance import Importance
from lesion.neurons import Neuron, NeuronSet
from lesion.sites import Site, Sites


class Ranking:
    """Neurons by descending importance; ties by (site, index).

    Args:
        importance: The scores.
        sites: The sites whose neurons are ranked together. Unreachable ones are left out: they have no effect.

    Raises:
        OptionError: No reachable site is among them, or a score is not a number.
    """

    def __init__(self, importance: Importance, sites: Sites) -> None:
        self.importance = importance
        self.sites = Sites(s for s in sites if s.reachable)
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

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rank: int) -> Neuron:
        return Neuron(self.sites[int(self._owner[rank])], int(self._index[rank]))

    def top(self, k: int) -> NeuronSet:
        """The k most important neurons.

        Raises:
            OptionError: k is negative or larger than the number of ranked neurons.
        """
        if not 0 <= k <= len(self):
            raise OptionError(f"k is {k}; there are {len(self)} ranked neurons")
        owner, index = self._owner[:k], self._index[:k]
        return NeuronSet.from_arrays({self.sites[int(i)]: index[owner == i] for i in np.unique(owner)})

    def rank_of(self, neuron: Neuron) -> int | None:
        """0-based rank of a neuron; None if it is not ranked."""
        at = [i for i, site in enumerate(self.sites) if site.key == neuron.site.key]
        found = np.flatnonzero((self._owner == (at or [-1])[0]) & (self._index == neuron.index))
        return int(found[0]) if len(found) else None

    def save(self, path: str | Path, others: Mapping[str, Importance] | None = None) -> None:
        """Writes CSV, whole or not at all: rank (from 1), the neuron, its score and consistency, and other scores."""
        extra = {name: i for name, i in (others or {}).items() if name != self.importance.scorer}
        columns = {name: [i.values(s) for s in self.sites] for name, i in extra.items()}
        consistency = [self.importance.consistency(s) for s in self.sites]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        mixed = any(s.expert is not None for s in self.sites)
        place = ["path", "component", "role", "layer", *(["expert"] if mixed else [])]
        table.writerow(["rank", *place, "index", self.importance.scorer, "consistency", *columns])
        for rank, (owner, index, score) in enumerate(zip(self._owner, self._index, self.scores, strict=True), start=1):
            site: Site = self.sites[int(owner)]
            table.writerow(
                [rank, *(site.place.get(name) for name in place), int(index), f"{score:.9g}"]
                + [f"{consistency[owner][index]:.4g}"]
                + [f"{values[owner][index]:.9g}" for values in columns.values()]
            )
        write_text(path, text.getvalue())


def read_top(path: str | Path, k: int, sites: Sites) -> NeuronSet:
    """The first k neurons of a file that :meth:`Ranking.save` wrote.

    Args:
        path: ``ranking.csv``.
        k: How many, at least 1.
        sites: Of the model that they are for.

    Raises:
        OptionError: k is not from 1 to the number of ranked neurons.
        NeuronSetError: The file cannot be read, or ranks neurons that the model does not have.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = [row for _, row in zip(range(max(k, 0)), csv.DictReader(file), strict=False)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NeuronSetError(f"{path} cannot be read as a ranking: {getattr(error, 'strerror', None) or error}") from None
    if not 1 <= k == len(rows):
        raise OptionError(f"k is {k}; {path} ranks {len(rows) if k > 0 else 'at least 1'} neurons")
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            place = row["path"] if not row.get("expert") else f"{row['path']}.{row['expert']}"
            site = sites.get(f"{place}:{row['role']}")
            if site is None:
                raise NeuronSetError(f"{path}, line {number}: the model has no {row['role']} site at {place!r}")
            found.append(Neuron(site, int(row["index"])))
        except (KeyError, ValueError) as error:
            if isinstance(error, NeuronSetError):
                raise
            raise NeuronSetError(f"{path}, line {number} is not a line of a ranking ({error})") from None
    return NeuronSet(found)
