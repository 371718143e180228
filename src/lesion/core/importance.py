"""An :class:`Importance` is one float64 vector a site, kept as sums and counts, so that parts can be merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lesion.core.display import FEW, HtmlTable
from lesion.core.errors import OptionError
from lesion.core.sites import Site, Sites
from lesion.core.tables import Rows, to_frame


@dataclass(repr=False)
class Importance(HtmlTable):
    """How important every neuron of some sites is, by one scorer.

    Attributes:
        scorer: Name of the scorer.
        options: The options that this scorer uses, with the values that made it.
        sites: What was scored.
        sums: Site key -> sum over samples, float64 ``[width]``.
        hits: Site key -> in how many samples the neuron was among the top share of its own component and role, int64.
        samples: How many samples were added.
    """

    scorer: str
    options: dict[str, Any]
    sites: Sites
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    hits: dict[str, np.ndarray] = field(default_factory=dict)
    samples: int = 0

    def values(self, site: Site) -> np.ndarray:
        """Mean over samples, float64 ``[width]``; zero where nothing was added."""
        return self.sums.get(site.key, np.zeros(site.width)) / max(self.samples, 1)

    def consistency(self, site: Site) -> np.ndarray:
        """Share of samples in which each neuron is among the top ones, float64 ``[width]``."""
        return self.hits.get(site.key, np.zeros(site.width)) / max(self.samples, 1)

    def table(self) -> Rows:
        """One row a site: mean and highest importance of its neurons."""
        rows = []
        for site in self.sites:
            values = self.values(site)
            rows.append({**site.location, "neurons": site.width, "mean": float(values.mean()), "highest": float(values.max())})
        return rows

    def to_frame(self):
        """One row a neuron, as a pandas ``DataFrame``; raises as :func:`lesion.core.tables.to_frame`."""
        return to_frame([
            {**site.location, "index": i, self.scorer: float(value), "consistency": float(share)}
            for site in self.sites
            for i, (value, share) in enumerate(zip(self.values(site), self.consistency(site), strict=True))
        ])  # fmt: skip

    def _html(self) -> tuple[str, Rows, int]:
        rows = [{"site": s.key, "neurons": s.width, "highest": float(self.values(s).max())} for s in self.sites[:FEW]]
        return f"Importance by {self.scorer}, {self.samples:,} samples", rows, len(self.sites)

    def __repr__(self) -> str:
        return f"Importance({self.scorer!r}, {len(self.sites)} sites, {self.samples} samples)"

    def merge(self, other: Importance) -> Importance:
        """The importance over both parts' samples.

        Raises:
            OptionError: The parts were made by different scorers, options or sites.
        """
        mine, theirs = (self.scorer, self.options), (other.scorer, other.options)
        if mine != theirs:
            raise OptionError(f"importances made differently cannot be merged: {mine} and {theirs}")
        if [s.key for s in self.sites] != [s.key for s in other.sites]:
            raise OptionError("importances of different sites cannot be merged")
        return Importance(
            self.scorer, self.options, self.sites, _add(self.sums, other.sums), _add(self.hits, other.hits),
            self.samples + other.samples,
        )  # fmt: skip


def _add(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.add(one.get(key, 0), two.get(key, 0)) for key in sorted({*one, *two})}


def encode(importances: Mapping[str, Importance], key: str = "") -> bytes:
    """Several importances as a safetensors file; no pickle.

    Args:
        importances: By name.
        key: Says what they were made from; :func:`decode` gives them back only for the same key.
    """
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    head: dict[str, Any] = {}
    for name, importance in importances.items():
        head[name] = {"scorer": importance.scorer, "options": importance.options, "samples": importance.samples}
        tensors |= {f"{name}/sum/{key}": value for key, value in importance.sums.items()}
        tensors |= {f"{name}/hits/{key}": value for key, value in importance.hits.items()}
    return save(tensors, metadata={"lesion": json.dumps(head), "key": key})


def decode(data: bytes, sites: Sites, key: str = "") -> dict[str, Importance] | None:
    """Reads what :func:`encode` made.

    Returns:
        By name; None where it was made with another key.

    Raises:
        ValueError: It is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if about.get("key") != key:
            return None
        head, tensors = json.loads(about["lesion"]), load(data)
    except (KeyError, TypeError, SafetensorError) as error:
        raise ValueError(str(error)) from None
    importances: dict[str, Importance] = {}
    for name, entry in head.items():
        importance = Importance(entry["scorer"], entry["options"], sites, samples=entry["samples"])
        for part in ("sum", "hits"):
            prefix = f"{name}/{part}/"
            values = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            setattr(importance, "sums" if part == "sum" else part, values)
        importances[name] = importance
    return importances
