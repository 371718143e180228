"""A :class:`Ground`: what a replica must know of the samples that it will be asked about; and requests as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lesion.ablation.units import Request
from lesion.core.neurons import NeuronSet
from lesion.core.packet import pack, unpack
from lesion.core.sites import Sites
from lesion.hooks.clean import Restored as Restored
from lesion.hooks.edit import edit_dict, edit_of
from lesion.hooks.fault import WeightFault as WeightFault
from lesion.hooks.intervention import Intervention, Statistics
from lesion.models.inputs import Answer


@dataclass(frozen=True)
class Ground:
    """Samples, and how they are answered about; arguments as of :class:`lesion.ablation.replies.MaskedReplies`.

    Attributes:
        samples: Their ids.
    """

    samples: Sequence[str]
    intact: Sequence[Answer]
    references: Sequence[Answer]
    max_new_tokens: int
    batch_size: int
    statistics: Statistics = field(default_factory=dict)
    alone: bool = False

    def pack(self) -> bytes:
        """For other processes."""
        head = {
            "samples": list(self.samples), "intact": [a.as_dict() for a in self.intact],
            "references": [a.as_dict() for a in self.references], "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size, "alone": self.alone, "statistics": list(self.statistics),
        }  # fmt: skip
        arrays = {
            f"{number}/{key}": np.asarray(values)
            for number, by_site in enumerate(self.statistics.values())
            for key, values in by_site.items()
        }
        return pack(head, arrays)

    @classmethod
    def unpack(cls, data: bytes) -> Ground:
        """From :meth:`pack`."""
        head, arrays = unpack(data)
        statistics: dict[str, dict[str, np.ndarray]] = {name: {} for name in head["statistics"]}
        for name, values in arrays.items():
            number, _, key = name.partition("/")
            statistics[head["statistics"][int(number)]][key] = values
        intact, references = ([Answer.from_dict(a) for a in head[part]] for part in ("intact", "references"))
        return cls(
            head["samples"], intact, references, head["max_new_tokens"], head["batch_size"], statistics, head["alone"]
        )


def request_dict(request: Request) -> dict[str, Any]:
    """For JSON.

    Raises:
        OptionError: The intervention, or an edit, is not registered.
    """
    neurons = {site.key: request.neurons.indices(site).tolist() for site in request.neurons.sites}
    edits = [edit_dict(edit) for edit in request.edits]
    return {"neurons": neurons, "intervention": request.intervention.as_dict(), "edits": edits}


def request_of(data: Mapping[str, Any], sites: Sites) -> Request:
    """From :func:`request_dict`.

    Args:
        data: JSON.
        sites: All of the model's.

    Raises:
        ValueError: The model has no such site.
        OptionError: The intervention, or an edit, is not registered here.
    """
    found = {key: sites.get(key) for key in data["neurons"]}
    if missing := [key for key, site in found.items() if site is None]:
        raise ValueError(f"this replica's model has no site {missing[0]}")
    arrays = {site: np.array(data["neurons"][key], dtype=np.int64) for key, site in found.items() if site is not None}
    edits = tuple(edit_of(edit, sites) for edit in data["edits"])
    return Request(NeuronSet.from_arrays(arrays), Intervention.from_dict(data["intervention"]), edits)
