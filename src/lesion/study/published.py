"""Known coordinates: published single weights and units on which models depend, and the truth seeded in tiny-llava.

A coordinate is ``(layer, row, column)`` of the language model's ``down_proj.weight``: ``column`` is an intermediate unit
(the same index as ``gate``, ``up`` and ``hidden`` neuron), ``row`` the residual channel that it writes to (a ``down``
neuron). Layers count from 0. Some papers remove single weights; masking the unit or the channel, as lesion does, removes more
than that. The census of 22 models removes whole rows, which is what masking a ``down`` neuron does, and names no columns. Its
rows are candidates by activation: in 13 models the loss moved by less than 5 %, and those are negative controls. Eight of its
models are encoders, which lesion does not load; they are listed because they were published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lesion import zoo
from lesion.core.errors import OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import ROLES as FEED_FORWARD
from lesion.core.sites import Role, Site, Sites

if TYPE_CHECKING:
    from lesion.models.vlm import VisionLanguageModel

ROLES: tuple[Role, ...] = ("hidden", "down")
"""A coordinate is an intermediate unit and a residual channel; gate and up are the same unit as hidden."""


@dataclass(frozen=True)
class Coordinate:
    """One weight of a down-projection, or one of its rows.

    Attributes:
        layer: From 0.
        row: Output channel.
        column: Intermediate unit; None where the whole row was removed.
        loss: By which share the loss rose when the row was removed (3.1 is +310 %); None where that was not published.
    """

    layer: int
    row: int
    column: int | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a model.

    Attributes:
        name: What ``--expect`` calls it.
        coordinates: See the module.
        source: Where it was published.
        pattern: Regular expression; found in the names of the model and of those that derive from it.
    """

    name: str
    coordinates: tuple[Coordinate, ...]
    source: str
    pattern: str

    def neurons(self, sites: Sites, role: Role) -> NeuronSet:
        """The coordinates as neurons of one role; empty for ``hidden`` where whole rows were removed.

        Raises:
            OptionError: The model has no such layer, unit or channel, so it is another model.
        """
        dense = [s for s in sites if s.component == "language" and s.expert is None]
        by_layer: dict[int, Site] = {s.layer: s for s in dense if s.role == role}
        neurons = []
        for at in self.coordinates:
            index = at.row if role == "down" else at.column
            if index is None:
                continue
            site = by_layer.get(at.layer)
            if site is None or index >= site.width:
                raise OptionError(
                    f"{self.name} has a known {role} neuron {index} in language layer {at.layer}; "
                    f"this model has {f'{site.width} there' if site else 'no such layer'}"
                )
            neurons.append(Neuron(site, index))
        return NeuronSet(neurons)

    def effects(self) -> list[str]:
        """What was published of rows that were removed whole, a line each."""
        return [
            f"row {at.row} of layer {at.layer} removed: loss {100 * at.loss:+,.1f} %"
            for at in self.coordinates
            if at.loss is not None
        ]

    def everywhere(self, chosen: Sites, sites: Sites) -> NeuronSet:
        """The coordinates as neurons of every feed-forward role that some sites have.

        Args:
            chosen: Say which roles.
            sites: Of the model.
        """
        roles = [role for role in FEED_FORWARD if any(site.role == role for site in chosen)]
        neurons = NeuronSet()
        for role in roles:
            neurons = neurons | self.neurons(sites, role)
        return neurons


def _known(name: str, pattern: str, source: str, *coordinates: tuple[int, int, int], loss: float | None = None) -> Known:
    """``loss`` is that of the first coordinate's row."""
    first, *others = coordinates
    return Known(name, (Coordinate(*first, loss), *(Coordinate(*c) for c in others)), source, pattern)


def _row(name: str, pattern: str, layer: int, row: int, loss: float) -> Known:
    return Known(name, (Coordinate(layer, row, None, loss),), _CENSUS, pattern)


_SUPER_WEIGHT, _SUPER_EXPERTS = "arXiv 2411.07191, table 2", "arXiv 2507.23279, table 8"
_CENSUS = "github.com/Georgakopoulos-Soares-lab/superweights, audit/census_master.csv"
_BOTH = f"{_SUPER_WEIGHT}; loss: {_CENSUS}"
PUBLISHED = (
    _known("llava-1.5-7b", r"llava-1\.5-7b", _SUPER_EXPERTS, (1, 1415, 7890), (1, 2533, 7890)),
    # The base of Vicuna 1.1, hence of InstructBLIP-vicuna-7b.
    _known("llama-7b", r"(?<![a-z])llama-7b|vicuna-7b-v1\.1|instructblip-vicuna-7b", _BOTH, (2, 3968, 7003), loss=3.008),
    _known("llama-13b", r"(?<![a-z])llama-13b|vicuna-13b-v1\.1", _SUPER_WEIGHT, (2, 2231, 2278), (2, 2231, 6939)),
    # The base of Vicuna 1.5, hence of LLaVA-1.5.
    _known("llama-2-7b", r"llama-2-7b|vicuna-7b-v1\.5", _SUPER_WEIGHT, (1, 2533, 7890)),
    _known("mistral-7b", r"mistral-7b-v0\.1", _BOTH, (1, 2070, 7310), loss=2.871),
    _known(
        "olmo-7b-0724", r"olmo-7b-0724", _BOTH,
        (1, 269, 7467), (2, 269, 8275), (7, 269, 453), (24, 269, 2300), loss=1.118,
    ),
    _known(
        "phi-3-mini-4k", r"phi-3-mini-4k", _SUPER_WEIGHT,
        (2, 525, 808), (2, 1693, 808), (2, 1113, 808), (4, 525, 2723), (4, 1113, 2723), (4, 1693, 2723),
    ),
    _known(
        "llama-3.2-1b", r"llama-3\.2-1b", _SUPER_EXPERTS,
        (1, 400, 1417), (1, 698, 1417), (1, 1159, 1417), (1, 2029, 1417),
    ),
    # SmolLM2 is the language model of SmolVLM. In the 1.7B, row 161 of layer 7 costs +287 % alone, and +2 % with row 749.
    _row("smollm2-135m", r"smollm2-135m|^smollm2$|^smol-llava$", 11, 507, 3.134),
    _row("smollm2-360m", r"smollm2-360m", 3, 87, 0.5915),
    _row("smollm2-1.7b", r"smollm2-1\.7b", 7, 227, 6.989),
    _row("qwen2.5-0.5b", r"qwen2\.5-0\.5b", 21, 62, 0.0056),
    _row("qwen2.5-1.5b", r"qwen2\.5-1\.5b", 26, 408, 0.0065),
    _row("qwen2.5-3b", r"qwen2\.5-3b", 30, 318, 0.0318),
    _row("qwen2.5-7b", r"qwen2\.5-7b", 26, 458, 0.0074),
    _row("generator-eukaryote-3b", r"generator-v2-eukaryote-3b", 4, 2371, 0.371),
    _row("generator-prokaryote-1.2b", r"generator-v2-prokaryote-1\.2b", 4, 798, 0.0060),
    _row("generator-prokaryote-3b", r"generator-v2-prokaryote-3b", 8, 260, 0.0025),
    _row("genomeocean-4b", r"genomeocean-4b", 1, 2604, 0.0076),
    _row("modernbert-base", r"modernbert-base", 15, 251, 3.570),
    _row("modernbert-large", r"modernbert-large", 19, 379, 2.207),
    _row("mosaicbert-base", r"mosaic-bert-base", 9, 287, 0.0037),
    _row("eurobert-210m", r"eurobert-210m", 3, 300, 0.0016),
    _row("eurobert-610m", r"eurobert-610m", 13, 762, 0.0092),
    _row("eurobert-2.1b", r"eurobert-2\.1b", 14, 2198, -0.0001),
    _row("dnabert-2", r"dnabert-2-117m", 5, 603, 0.0083),
    _row("ntv3-650m", r"ntv3_650m", 11, 1472, -0.0079),
)  # fmt: skip


def _seeded() -> Known:
    """What was seeded in tiny-llava, as its card says."""
    truth = json.loads((zoo.folder("tiny-llava") / "card.json").read_text())["seeded"]
    places = ((truth["layer"], row, column) for column in truth["units"] for row in truth["channels"])
    return _known("tiny-llava", "^tiny-llava$", "seeded on purpose; see the model's card", *places)


SEEDED: dict[str, Callable[[], Known]] = {"tiny-llava": _seeded}


def names() -> list[str]:
    """What ``--expect`` can be."""
    return [*SEEDED, *(k.name for k in PUBLISHED)]


def known(name: str) -> Known:
    """By its name.

    Raises:
        OptionError: Nothing is known under that name; the message lists the names.
    """
    if name in SEEDED:
        return SEEDED[name]()
    for entry in PUBLISHED:
        if entry.name == name:
            return entry
    raise OptionError(f"nothing is known of {name!r}; known: {', '.join(names())}")


def recognise(*names: str | None) -> Known | None:
    """What is known of a model by its names.

    Args:
        names: The name that the user gave, and ``_name_or_path`` of its configs; case does not matter.

    Returns:
        The first entry whose pattern is found in one of the names, in the order of the names; None if there is none.
    """
    for name in names:
        for entry in (*(make() for make in SEEDED.values()), *PUBLISHED):
            if name and re.search(entry.pattern, name.lower()):
                return entry
    return None


def names_of(vlm: VisionLanguageModel) -> list[str | None]:
    """What the model's configs say that it was made from."""
    config = vlm.model.config
    return [getattr(c, "_name_or_path", None) for c in (config, getattr(config, "text_config", None))]


def truth_of(vlm: VisionLanguageModel, expect: str | None) -> Known | None:
    """What is known of a model.

    Args:
        vlm: The model.
        expect: Whose known coordinates; None to go by the model's names.

    Raises:
        OptionError: ``expect`` names nothing that is known, or what does not fit the model.
    """
    entry = known(expect) if expect is not None else recognise(vlm.name, *names_of(vlm))
    try:
        if entry is not None:
            for role in ROLES:
                entry.neurons(vlm.sites, role)
    except OptionError:
        # A model that only bears the name (a tiny one of the same family, say) is not what was published.
        if expect is not None:
            raise
        return None
    return entry
