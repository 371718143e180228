"""The :class:`Listing` of a study: the first of its ranking with all that is known of them, and every site that was scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.models.vlm import VisionLanguageModel
from lesion.study.neuron_entry import NeuronEntry, RankedNeuron
from lesion.study.published import Known, truth_of
from lesion.study.result import SiteSummary

TOP = 200
"""Neurons of the ranking that are listed with everything that is known of them."""


@dataclass(frozen=True)
class Listing:
    """What is listed of a ranking.

    Attributes:
        vlm: The model.
        importances: By scorer; holds ``activation`` and ``gradient``.
        ranking: Of the chosen sites.
        critical: The top k*.
    """

    vlm: VisionLanguageModel
    importances: Mapping[str, Importance]
    ranking: Ranking
    critical: NeuronSet

    @cached_property
    def known(self) -> Known | None:
        """What is known of the model, where it fits."""
        return truth_of(self.vlm, None)

    @property
    def known_words(self) -> str | None:
        """Whose known coordinates the model has, and where they were published."""
        return None if self.known is None else f"{self.known.name} ({self.known.source})"

    def top(self) -> list[RankedNeuron]:
        known = NeuronSet() if self.known is None else self.known.everywhere(self.ranking.sites, self.vlm.sites)
        made, own = [], self.importances.get(self.ranking.name)
        for i in range(min(TOP, len(self.ranking))):
            neuron = self.ranking[i]
            values = {name: self.importances[name].values(neuron.site) for name in ("activation", "gradient")}
            of: dict[str, Any] = {name: float(value[neuron.index]) for name, value in values.items()}
            made.append(RankedNeuron(
                **NeuronEntry.of(neuron).model_dump(), rank=i + 1, importance=_finite(self.ranking.scores[i]), **of,
                consistency=None if own is None else float(own.consistency(neuron.site)[neuron.index]),
                critical=neuron in self.critical, known=neuron in known,
            ))  # fmt: skip
        return made

    def places(self) -> list[SiteSummary]:
        importance = self.importances.get(self.ranking.name, self.importances["can"])
        return [SiteSummary.of(s, importance.values(s), len(self.critical.indices(s))) for s in importance.sites]


def _finite(value: float) -> float | None:
    return float(value) if value == value else None
