"""A :class:`Neuron` is a site and an index; a :class:`NeuronSet` is a set of them that can be saved, shared and diffed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lesion.core.display import FEW, HtmlTable
from lesion.core.errors import NeuronSetError
from lesion.core.files import write_text
from lesion.core.identity import Identity
from lesion.core.parsing import from_json, number_of, short, text_of
from lesion.core.sites import COMPONENTS, Site, Sites
from lesion.core.tables import Rows, to_frame

FORMAT = "lesion-neurons-2"


@dataclass(frozen=True)
class Neuron:
    """One neuron: ``index`` counts from 0 within the site."""

    site: Site
    index: int

    def __str__(self) -> str:
        expert = "" if self.site.expert is None else f" expert {self.site.expert}"
        return f"{self.site.component} layer {self.site.layer}{expert} {self.site.role}[{self.index}]"

    def as_dict(self) -> dict[str, Any]:
        return {**self.site.location, "index": self.index}


class NeuronSet(HtmlTable):
    """An unordered set of neurons, kept as one sorted index array a site, so that a million of them stay cheap.

    Args:
        neurons: The members; double ones count once.
        identity: The model that they were found in; None where that is not known.

    Raises:
        NeuronSetError: An index is not within its site's width.
    """

    def __init__(self, neurons: Iterable[Neuron] = (), identity: Identity | None = None) -> None:
        members: dict[Site, list[int]] = {}
        for neuron in neurons:
            members.setdefault(neuron.site, []).append(neuron.index)
        self._set({site: np.asarray(indices) for site, indices in members.items()}, identity)

    @classmethod
    def from_arrays(cls, arrays: Mapping[Site, np.ndarray], identity: Identity | None = None) -> NeuronSet:
        """From one index array a site, in any order."""
        made = cls.__new__(cls)
        made._set(arrays, identity)
        return made

    def _set(self, arrays: Mapping[Site, np.ndarray], identity: Identity | None) -> None:
        self.identity = identity
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
        return NeuronSet([*self, *other], self.identity)

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet((n for n in self if n in other), self.identity)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet((n for n in self if n not in other), self.identity)

    def __repr__(self) -> str:
        few = ", ".join(str(n) for n, _ in zip(self, range(6), strict=False))
        return f"NeuronSet({len(self)}: {few}{', ...' if len(self) > 6 else ''})"

    def table(self) -> Rows:
        """One row a neuron: where it is, and its index."""
        return [n.as_dict() for n in self]

    def to_frame(self):
        """:meth:`table` as a pandas ``DataFrame``; raises as :func:`lesion.core.tables.to_frame`."""
        return to_frame(self.table())

    def _html(self) -> tuple[str, Rows, int]:
        rows = [{"neuron": str(neuron)} for neuron, _ in zip(self, range(FEW), strict=False)]
        of = "" if self.identity is None else f" of {self.identity.base}"
        return f"Neurons{of}: {len(self):,}", rows, len(self)

    @property
    def sites(self) -> list[Site]:
        """The sites that have a member, in the fixed order."""
        return list(self._arrays)

    def indices(self, site: Site) -> np.ndarray:
        """Sorted int64 indices of the members in a site, ``[members]``."""
        return self._arrays.get(site, np.empty(0, dtype=np.int64))

    @cached_property
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
        sites = [{**s.location, "width": s.width, "indices": i.tolist()} for s, i in self._arrays.items()]
        identity = None if self.identity is None else self.identity.as_dict()
        return json.dumps({"format": FORMAT, "model": identity, "count": len(self), "sites": sites}, indent=1) + "\n"

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
            text = Path(path).read_bytes()
        except OSError as error:
            why = error.strerror or error
            raise NeuronSetError(
                f"{path}: cannot be read as a set of neurons: {why}; expected one such as a run's critical.json"
            ) from None
        return cls.from_json(text, path)

    @classmethod
    def from_json(cls, text: bytes | str, path: str | Path) -> NeuronSet:
        """Reads what :meth:`to_json` made.

        Args:
            text: The JSON.
            path: The file that it is from, for messages.

        Raises:
            NeuronSetError: Not a set of neurons.
        """
        try:
            data = from_json(text)
        except ValueError as error:
            raise NeuronSetError(
                f"{path}: cannot be read as a set of neurons: {error}; expected one such as a run's critical.json"
            ) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise NeuronSetError(f"{path}: not a set of neurons; expected a JSON object with format {FORMAT!r}")
        arrays: dict[Site, np.ndarray] = {}
        try:
            identity = None if data.get("model") is None else Identity.from_dict(data["model"])
            for entry in data["sites"]:
                site, indices = _entry(entry)
                if site in arrays:
                    raise ValueError(f"{site.key} is there twice")
                arrays[site] = indices
            return cls.from_arrays(arrays, identity)
        except KeyError as error:
            raise NeuronSetError(f"{path}: damaged entry: {error.args[0]} is missing; have the file made anew") from None
        except (TypeError, ValueError) as error:
            raise NeuronSetError(f"{path}: damaged entry: {error}; have the file made anew") from None

    def fit(self, sites: Sites, identity: Identity | None = None, force: bool = False) -> NeuronSet:
        """The same neurons on a model's own sites.

        Args:
            sites: Of the model.
            identity: Of the model; it must be the one that the neurons were found in.
            force: Take them from another model, whose sites are alike.

        Raises:
            NeuronSetError: They were found in another model, or this one has no such site, or one of another width.
        """
        if identity is not None and identity.differs_from(self.identity) and not force:
            raise NeuronSetError(
                f"these neurons were found in {self.identity}, and this model is {identity}; --force masks them all the same"
            )
        fitted: dict[Site, np.ndarray] = {}
        for site, indices in self._arrays.items():
            own = sites.get(site.key)
            if own is None:
                known = sorted({s.module_name for s in sites if s.role == site.role})
                some = f"; for example {known[0]}" if known else ""
                raise NeuronSetError(
                    f"the model has no {site.role} site at {site.module_name!r} ({len(known)} others{some}); "
                    "is the set another model's?"
                )
            if own.width != site.width:
                raise NeuronSetError(f"{site.key} has {own.width} neurons in this model; the set expects {site.width}")
            fitted[own] = indices
        return NeuronSet.from_arrays(fitted, self.identity)


MOST = 2**31
"""No site has so many neurons; a larger number in a file is damage."""


def _entry(entry: Any) -> tuple[Site, np.ndarray]:
    """A site and its members, from an entry of a file.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    if not isinstance(entry, dict):
        raise TypeError(f"expected an object for each site; found {short(entry)}")
    if entry["component"] not in COMPONENTS:
        raise ValueError(f"component is {short(entry['component'])}; expected one of {', '.join(COMPONENTS)}")
    path, role = (text_of(entry[name], name) for name in ("path", "role"))
    layer, width = (number_of(entry[name], name, MOST) for name in ("layer", "width"))
    expert = None if entry.get("expert") is None else number_of(entry["expert"], "expert", MOST)
    site, indices = Site(path, entry["component"], role, layer, width, expert=expert), entry["indices"]
    if not isinstance(indices, list):
        raise TypeError(f"indices is {short(indices)}; expected a list")
    # numpy would take 1.5 for 1, and a text for the number that it spells.
    return site, np.array([number_of(index, "an index", MOST) for index in indices], dtype=np.int64)
