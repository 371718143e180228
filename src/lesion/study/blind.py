"""Where a ranking is blind: what masking does, held against what the ranking and the gradient say of it.

A gradient at the intact model says how the loss changes when an activation changes a little; a mask changes it a lot. Where the
loss is flat at the intact model, the gradient is small however much depends on the neuron: a norm divides gradients by the size
of what it is given (arXiv 2603.17771), so that the neuron that writes nearly all of the residual stream has next to none. Two
measurements tell:

* **The first neuron by activation**, where the ranking does not have it among the top k*, is masked alone. It was *missed*
  where that collapses the model, or is worse than intact by more than sampling noise (the rule of stage 1, which takes
  :data:`~lesion.core.statistics.FEWEST` samples) and raises the mean NLL of the intact answers by more than the first neuron
  of the ranking does alone. Without a collapse, it is masked unless it is the first of the ranking.
* **The first order**: the Taylor importances of a set's neurons, summed, are the most by which the mean NLL changes as far as
  the gradient can tell (arXiv 1611.06440). The measured rise is *far beyond* it where it is more than :data:`TIMES` times as
  much and more than :data:`NATS` nats. That holds for masks that set every token to 0, and importances of every token; other
  masks are not compared. A study is warned of it for a neuron masked alone, where its scorer is a gradient at the intact
  model: neurons that do together what none does alone go beyond the sum too, and that is no fault of their ranks. The promise
  is of the samples that were ranked on, the rise of those that were measured on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lesion.ablation.measure import Ablation
from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.importance import Importance
from lesion.core.metrics import METRICS, headline
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.scoring.scorers import SCORERS
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.options import StudyOptions
from lesion.study.result import Blind, FirstOrder, MaskedAlone
from lesion.study.session import Session

TIMES = 10.0
"""A rise of so many times what the gradient promises is far beyond it."""
NATS = 1.0
"""Rises up to here, of the mean NLL, are too small to warn of."""
ELSEWISE = ("activation", "integrated-gradients")
"""Scorers that do not rest on the gradient at the intact model, to compare with."""
PERPLEXITY, NLL = METRICS["ppl_reference"], METRICS["nll_reference"]


@dataclass(frozen=True)
class Looked:
    """What a study has found when it looks for what its ranking does not see.

    Attributes:
        ranking: Of the chosen sites.
        importances: By scorer; holds ``activation``. Without ``taylor``, nothing is held against the first order.
        curve: Of the ranking's prefixes.
        collapse: What it says.
        minimal: The minimal set; None where there is none.
    """

    ranking: Ranking
    importances: Mapping[str, Importance]
    curve: Curve
    collapse: Collapse
    minimal: NeuronSet | None

    @property
    def end(self) -> int:
        """k*, or the largest k."""
        return self.collapse.largest_k if self.collapse.k_star is None else self.collapse.k_star


def look(session: Session, ablation: Ablation, looked: Looked) -> Blind | None:
    """Measures what the ranking does not see; at most one more mask.

    Args:
        session: Open.
        ablation: Masks on the samples of the curve.
        looked: What was found so far.

    Returns:
        None where there is nothing to look at: the first neuron by activation is among the top k*, and there is no first order.
    """
    alone, orders = _masked_alone(session, ablation, looked), _first_order(session.options, ablation, looked)
    if alone is None and not orders:
        return None
    beyond = next((order for order in orders if order.k == 1 and is_far_beyond(order)), None)
    return Blind(alone=alone, first_order=orders, beyond=beyond, warnings=_warnings(session.options, looked, alone, beyond))


def first_of(importance: Importance, sites: Sites) -> Neuron:
    """The most important neuron of some sites; of equals the first by (site, index). What is not a number is left out."""
    values = {site: np.nan_to_num(importance.values(site), nan=-math.inf, posinf=math.inf) for site in sites}
    site = max(values, key=lambda s: float(values[s].max()))
    return Neuron(site, int(values[site].argmax()))


def is_far_beyond(order: FirstOrder) -> bool:
    """Whether a measured rise is far beyond what the gradient promises; see the module."""
    measured = math.inf if order.measured is None else order.measured
    return measured > NATS and measured > TIMES * order.promised


def _masked_alone(session: Session, ablation: Ablation, looked: Looked) -> MaskedAlone | None:
    """Masks the first neuron by activation, unless the ranking has it in time."""
    neuron, intact = first_of(looked.importances["activation"], session.sites), looked.curve.intact
    rank = looked.ranking.rank_of(neuron)
    if rank is not None and rank < (looked.collapse.k_star or 1):
        return None
    with session.progress.stage("masking the first neuron by activation", 1) as advance:
        measured = ablation(NeuronSet([neuron]))
        advance(1)
    said = detect_collapse(Curve([intact, measured], looked.curve.chance), session.options.seed, session.options.rule())
    rise, of_first = _rise(intact, measured), _rise(intact, looked.curve.at(1))
    worse = said.stage1_k is not None and _or_infinite(rise) > _or_infinite(of_first)
    shown = [metric.name for metric in headline(intact.metrics)]
    return MaskedAlone(
        neuron=NeuronEntry.of(neuron), rank=None if rank is None else rank + 1, rise=rise, rise_of_first=of_first,
        before={name: intact.metrics[name] for name in shown}, after={name: measured.metrics[name] for name in shown},
        collapsed=None if said.undecided else bool(said.collapsed), missed=bool(said.collapsed) or worse,
        evaluation=measured.key,
    )  # fmt: skip


def _first_order(options: StudyOptions, ablation: Ablation, looked: Looked) -> list[FirstOrder]:
    """Of each prefix up to k*, and of the minimal set; all of them were masked before."""
    taylor = looked.importances.get("taylor")
    if taylor is None or (options.mask, options.mask_positions, options.positions) != ("zero", "all", "all"):
        return []
    intact = looked.curve.intact
    if intact.metrics[NLL.name] is None:
        return []
    orders = [
        FirstOrder(of="top k", k=p.k, promised=_promise(taylor, looked.ranking.top(p.k)), measured=_rise(intact, p))
        for p in looked.curve
        if 0 < p.k <= looked.end
    ]
    if looked.minimal is not None:
        promised, rise = _promise(taylor, looked.minimal), _rise(intact, ablation(looked.minimal))
        orders.append(FirstOrder(of="minimal set", k=len(looked.minimal), promised=promised, measured=rise))
    return orders


def _promise(taylor: Importance, neurons: NeuronSet) -> float:
    """The sum of the neurons' Taylor importances, in nats."""
    return math.fsum(float(taylor.values(site)[i]) for site in neurons.sites for i in neurons.indices(site))


def _rise(intact: Evaluation, masked: Evaluation) -> float | None:
    """Of the mean NLL of the answers' tokens, in nats; None where it is not finite."""
    before, after = intact.metrics[NLL.name], masked.metrics[NLL.name]
    return None if before is None or after is None else after - before


def _or_infinite(rise: float | None) -> float:
    return math.inf if rise is None else rise


def _warnings(options: StudyOptions, looked: Looked, alone: MaskedAlone | None, beyond: FirstOrder | None) -> list[str]:
    """What to warn of, in words, with what to do about it."""
    scorer, total, notes = looked.ranking.name, len(looked.ranking), list[str]()
    if alone is not None and alone.missed:
        where = "not" if alone.rank is None else f"number {alone.rank:,} of {total:,}"
        does = "collapses the model" if alone.collapsed else "does more harm than the first neuron of the ranking"
        values = " to ".join(PERPLEXITY.show(of[PERPLEXITY.name]) for of in (alone.before, alone.after))
        notes.append(
            f"{alone.neuron} is first by activation and {where} in the ranking ({scorer}); masked alone it {does} "
            f"({PERPLEXITY.label} from {values})"
        )
    if beyond is not None and _is_gradient(scorer, options):
        risen = f"{NLL.show(beyond.measured)} nats" if beyond.measured is not None else "more than a number can hold"
        neuron = next(iter(looked.ranking.top(1) if beyond.of == "top k" else looked.minimal or ()))
        notes.append(
            f"masking {neuron} alone raises the mean NLL of the intact answers by {risen}, and the gradient at the intact "
            f"model promises {NLL.show(beyond.promised)} at most: the ranking ({scorer}) may have others too low"
        )
    others = [name for name in ELSEWISE if name in SCORERS and name != scorer]
    if notes and others:
        notes.append(f"to see what this ranking may miss, rank with --scorer {' or '.join(others)} as well and compare")
    return notes


def _is_gradient(scorer: str, options: StudyOptions) -> bool:
    """Whether a scorer is a gradient at the intact model."""
    known = SCORERS.get(scorer)
    return known is not None and known.pass_for(options.scoring()) == "gradient"
