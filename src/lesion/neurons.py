"""A :class:`Neuron` is a site and an index; a :class:`NeuronSet` is a set of them that can be saved, shared and diffed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesion.errors import NeuronSetError
from lesion.files import write_text
from lesion.sites import COMPONENTS, ROLES, Site, Sites

FORMAT = "lesion-neurons-1"


@dataclass(frozen=True)
class Neuron:
    """One neuron: ``index`` counts from 0 within the site."""

    site: Site
    index: int

    def __str__(self) -> str:
        expert = "" if self.site.expert is None else f" expert {self.site.expert}"
        return f"{self.site.component} layer {self.site.layer}{expert} {self.site.role}[{self.index}]"

    def as_dict(self) -> dict[str, Any]:
        return {**self.site.place, "index": self.index}


class NeuronSet:
    """An unordered set of neurons, kept as one sorted index array a site, so that a million of them stay cheap.

    Args:
        neurons: The members; double ones count once.
        model: Name of the model that it belongs to, for people.
        revision: The model's fingerprint (see :class:`lesion.models.vlm.VisionLanguageModel`), for machines.

    Raises:
        NeuronSetError: An index is not within its site's width.
    """

    def __init__(self, neurons: Iterable[Neuron] = (), model: str | None = None, revision: str | None = None) -> None:
        members: dict[Site, list[int]] = {}
        for neuron in neurons:
            members.setdefault(neuron.site, []).append(neuron.index)
        self._set({site: np.asarray(indices) for site, indices in members.items()}, model, revision)

    @classmethod
    def from_arrays(cls, arrays: Mapping[Site, np.ndarray], model: str | None = None, revision: str | None = None) -> NeuronSet:
        """From one index array a site, in any order."""
        made = cls.__new__(cls)
        made._set(arrays, model, revision)
        return made

    def _set(self, arrays: Mapping[Site, np.ndarray], model: str | None, revision: str | None) -> None:
        self.model, self.revision = model, revision
        self._arrays: dict[Site, np.ndarray] = {}
        for site in sorted(arrays, key=lambda s: s.order):
            indices = np.unique(np.asarray(arrays[site], dtype=np.int64))
            if len(indices) and (indices[0] < 0 or indices[-1] >= site.width):
                raise NeuronSetError(
                    f"{site.key} has neurons 0 to {site.width - 1}; found indices {indices[0]} to {indices[-1]}"
                )
            if len(indices):
                self._arrays[site] = indices

    # -- as a set ----------------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return sum(len(a) for a in self._arrays.values())

    def __iter__(self) -> Iterator[Neuron]:
        return (Neuron(site, int(i)) for site, indices in self._arrays.items() for i in indices)

    def __contains__(self, neuron: object) -> bool:
        if not isinstance(neuron, Neuron) or neuron.site not in self._arrays:
            return False
        return bool(np.isin(neuron.index, self._arrays[neuron.site]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronSet) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet([*self, *other], self.model, self.revision)

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet((n for n in self if n in other), self.model, self.revision)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet((n for n in self if n not in other), self.model, self.revision)

    def __repr__(self) -> str:
        few = ", ".join(str(n) for n, _ in zip(self, range(6), strict=False))
        return f"NeuronSet({len(self)}: {few}{', ...' if len(self) > 6 else ''})"

    def _repr_html_(self) -> str:
        from lesion.report.notebook import of_neurons

        return of_neurons(self)

    @property
    def sites(self) -> list[Site]:
        """The sites that have a member, in the fixed order."""
        return list(self._arrays)

    def indices(self, site: Site) -> np.ndarray:
        """Sorted int64 indices of the members in a site, ``[members]``."""
        return self._arrays.get(site, np.empty(0, dtype=np.int64))

    @property
    def digest(self) -> str:
        """A hash of the members (16 hexadecimal digits); the same set has the same one on every machine."""
        text = hashlib.sha256()
        for site, indices in self._arrays.items():
            text.update(f"{site.key}/{','.join(map(str, indices.tolist()))};".encode())
        return text.hexdigest()[:16]

    def by_layer(self) -> dict[tuple[str, int], int]:
        """(component, layer) -> number of members."""
        counts: dict[tuple[str, int], int] = {}
        for site, indices in self._arrays.items():
            counts[site.component, site.layer] = counts.get((site.component, site.layer), 0) + len(indices)
        return counts

    # -- as a file ---------------------------------------------------------------------------------------------------
    def to_json(self) -> str:
        sites = [{**s.place, "width": s.width, "indices": i.tolist()} for s, i in self._arrays.items()]
        head = {"format": FORMAT, "model": self.model, "revision": self.revision, "count": len(self), "sites": sites}
        return json.dumps(head, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Reads what :meth:`save` wrote.

        Raises:
            NeuronSetError: No such file, or not a set of neurons; the message says what is wrong with it.
        """
        try:
            data = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise NeuronSetError(f"{path}: cannot be read as a set of neurons: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise NeuronSetError(f"{path}: not a set of neurons; expected a JSON object with format {FORMAT!r}")
        arrays: dict[Site, np.ndarray] = {}
        try:
            for entry in data["sites"]:
                expert = None if entry.get("expert") is None else int(entry["expert"])
                site = Site(
                    entry["path"], entry["component"], entry["role"], int(entry["layer"]), int(entry["width"]), expert=expert
                )
                if site.component not in COMPONENTS or site.role not in ROLES:
                    raise ValueError(f"component {site.component!r}, role {site.role!r}")
                arrays[site] = np.asarray(entry["indices"], dtype=np.int64)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NeuronSetError(f"{path}: damaged entry in 'sites': {error}") from None
        return cls.from_arrays(arrays, data.get("model"), data.get("revision"))

    def fit(self, sites: Sites) -> NeuronSet:
        """The same neurons on another model's sites.

        Raises:
            NeuronSetError: The model has no such site, or one of another width.
        """
        fitted: dict[Site, np.ndarray] = {}
        for site, indices in self._arrays.items():
            own = sites.get(site.key)
            if own is None:
                known = sorted({s.place_name for s in sites if s.role == site.role})
                some = f"; for example {known[0]}" if known else ""
                raise NeuronSetError(f"the model has no {site.role} site at {site.place_name!r} ({len(known)} others{some})")
            if own.width != site.width:
                raise NeuronSetError(f"{site.key} has {own.width} neurons in this model; the set expects {site.width}")
            fitted[own] = indices
        return NeuronSet.from_arrays(fitted, self.model, self.revision)
