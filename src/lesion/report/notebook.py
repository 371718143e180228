"""How the main nouns look in a notebook: short, and every text escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lesion.core.tables import Rows, escape, html

if TYPE_CHECKING:
    from lesion.core.curve import Curve
    from lesion.core.importance import Importance
    from lesion.core.neurons import NeuronSet
    from lesion.core.ranking import Ranking
    from lesion.core.sites import Sites
    from lesion.study.result import Result

FEW = 10
"""Rows that are shown."""


def of_result(result: Result) -> str:
    """The verdict, how sure it is, and the notes."""
    lines = [*result.confidence(), *(f"Note: {note}." for note in result.notes)]
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<p><strong>{escape(result.verdict)}</strong></p><ul>{said}</ul>"


def of_curve(curve: Curve) -> str:
    """The main metrics at every k, as far as they fit."""
    shown = [{"k": p.k, "perplexity": p.metrics["ppl_reference"], "CLIP score": p.metrics["clip_score"]} for p in curve]
    return _table(f"Curve of {len(curve.intact.outcomes):,} samples", shown, 3 * FEW)


def of_importance(importance: Importance) -> str:
    """What made it, and the highest of each site."""
    rows = [
        {"site": site.key, "neurons": site.width, "highest": float(importance.values(site).max())} for site in importance.sites
    ]
    return _table(f"Importance by {importance.scorer}, {importance.samples:,} samples", rows)


def of_ranking(ranking: Ranking) -> str:
    """The first neurons."""
    count = min(FEW, len(ranking))
    rows = [{"rank": i + 1, "neuron": str(ranking[i]), "importance": float(ranking.scores[i])} for i in range(count)]
    return _table(f"Ranking of {len(ranking):,} neurons by {ranking.importance.scorer}", rows, more=len(ranking) - len(rows))


def of_neurons(neurons: NeuronSet) -> str:
    """The first members."""
    rows = [{"neuron": str(neuron)} for neuron, _ in zip(neurons, range(FEW), strict=False)]
    name = "Neurons" if neurons.model is None else f"Neurons of {neurons.model}"
    return _table(f"{name}: {len(neurons):,}", rows, more=len(neurons) - len(rows))


def of_sites(sites: Sites) -> str:
    """One row a component and role."""
    shown = ("component", "role", "layers", "neurons", "reachable")
    rows = [{name: row[name] for name in shown} for row in sites.table()]
    return _table(f"{sites.neurons:,} neurons in {len(sites):,} sites", rows, len(rows))


def _table(title: str, rows: Rows, limit: int = FEW, more: int = 0) -> str:
    more += max(len(rows) - limit, 0)
    rest = f"<p>and {more:,} more</p>" if more else ""
    return f"<p><strong>{escape(title)}</strong></p>{html(rows[:limit])}{rest}"
