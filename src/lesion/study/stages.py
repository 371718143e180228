"""The stages of a study: each a function that reads what the stages before it left behind, and writes one artefact.

``answers`` -> ``importance`` -> ``ranking`` -> ``curve`` -> ``collapse`` -> ``confirmed``, ``minimal``, ``controls``,
``blind``, ``search`` -> ``result``

A stage whose artefact is there, made from what is there now, is not run again. So a study that was killed goes on where it
stopped; ``--from STAGE`` makes a stage and those behind it anew; and a file that is replaced by hand (a ``ranking.csv`` of
one's own) is what the stages behind it are made from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.curve import Curve
from lesion.core.errors import OptionError
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.study import rundir
from lesion.study.conclusion import Findings, warn_of_the_intact_model
from lesion.study.evidence import blind, confirmed, controls, minimal, search
from lesion.study.importances import importances as score_all
from lesion.study.importances import note_unscored, rankable, study_scorers
from lesion.study.listing import Listing
from lesion.study.own import own_order
from lesion.study.result import Result
from lesion.study.run import Run
from lesion.study.session import Session


@dataclass(frozen=True)
class Stage:
    """One step of a study.

    Attributes:
        name: For ``--from``.
        artefact: The file that it writes.
        after: The stages whose artefacts it reads.
        run: Makes it, or reads it where it is there.
    """

    name: str
    artefact: str
    after: tuple[str, ...]
    run: Callable[[Run], Any]


def answers(run: Run) -> Any:
    """The intact model's own answers."""
    return run.session.answers


def importance(run: Run) -> dict[str, Importance]:
    """Every scorer's importance of every neuron."""
    session, options = run.session, run.session.options
    importances = score_all(session, session.ranked, study_scorers(options), options.scoring())
    note_unscored(session, importances["can"], len(session.ranked), session.sites)
    return importances


def ranking(run: Run) -> Ranking:
    """The neurons by the study's scorer, or in an order of one's own."""
    session, path = run.session, run.session.run.path / rundir.RANKING
    importances = run.importances
    if path.exists():
        order = Ranking.load(path, session.sites)
        if order.name == session.options.scorer and len(order) == session.sites.neurons:
            order.importance = importances.get(order.name)
        return order
    order = run.own or own_order(session.options, session.sites, session.identity)
    order = order or Ranking(importances[session.options.scorer], session.sites)
    order.save(path, rankable(importances))
    return order


def curve(run: Run) -> Curve:
    """What masking the top k does, for growing k."""
    session, ranked = run.session, run.ranking
    kept = session.run.read_as(rundir.CURVE, lambda data: _curve(session, data))
    if kept is not None:
        return kept
    limit = session.options.max_k
    if limit is not None and limit > len(ranked):
        raise OptionError(f"max_k is {limit}; the ranking has {len(ranked):,} neurons")
    baseline = run.ablation.baseline
    warn_of_the_intact_model(session, Curve([baseline.intact], baseline.chance))
    swept = run.ablation.curve(ranked, limit)
    points = [{"k": p.k, "evaluation": p.key, **p.metrics} for p in swept]
    session.run.write_json(rundir.CURVE, {"points": points, "chance": None if swept.chance is None else swept.chance.tolist()})
    return swept


def _curve(session: Session, data: Any) -> Curve | None:
    """As ``curve.json`` holds it; None where an evaluation of it is gone."""
    points = [session.run.evaluation(point["evaluation"]) for point in data["points"]]
    measured = [point for point in points if point is not None]
    return Curve(measured, data["chance"]) if len(measured) == len(points) else None


def collapse(run: Run) -> Collapse:
    """Stage 1, k*, and how sure they are."""
    options, kept = run.session.options, run.session.run.read_as(rundir.COLLAPSE, _collapse)
    if kept is not None:
        return kept
    collapsed = detect_collapse(run.curve, options.seed, options.rule())
    run.session.run.write_json(rundir.COLLAPSE, asdict(collapsed))
    return collapsed


def _collapse(data: Any) -> Collapse:
    """As ``collapse.json`` holds it."""
    return Collapse(**data | {name: tuple(data[name]) for name in ("collapsed", "undecided", "k_star_ci")})


def result(run: Run) -> Result:
    """The answer, put together from everything before."""
    run.critical.save(run.session.run.path / rundir.CRITICAL)
    searched = run.get("search")
    if searched is not None and searched.neurons is not None:
        found = NeuronSet((entry.neuron() for entry in searched.neurons), run.session.identity)
        found.save(run.session.run.path / rundir.FOUND)
    findings = Findings(
        run.session, Listing(run.session.vlm, run.importances, run.ranking, run.critical), run.curve, run.collapse,
        run.get("confirmed"), run.get("minimal"), run.get("controls"), run.get("blind"), searched,
    )  # fmt: skip
    answer = findings.conclude()
    run.session.run.write_json(rundir.RESULT, answer.model_dump())
    return answer


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("answers", rundir.ANSWERS, (), answers),
        Stage("importance", rundir.IMPORTANCE, ("answers",), importance),
        Stage("ranking", rundir.RANKING, ("importance",), ranking),
        Stage("curve", rundir.CURVE, ("answers", "importance", "ranking"), curve),
        Stage("collapse", rundir.COLLAPSE, ("curve",), collapse),
        Stage("confirmed", rundir.CONFIRMED, ("importance", "ranking", "curve", "collapse"), confirmed),
        Stage("minimal", rundir.MINIMAL, ("importance", "ranking", "collapse"), minimal),
        Stage("controls", rundir.CONTROLS, ("importance", "ranking", "collapse"), controls),
        Stage("blind", rundir.BLIND, ("importance", "ranking", "curve", "collapse", "minimal"), blind),
        Stage("search", rundir.SEARCH, ("importance", "ranking"), search),
        Stage(
            "result", rundir.RESULT,
            ("importance", "ranking", "curve", "collapse", "confirmed", "minimal", "controls", "blind", "search"), result,
        ),
    )
}
"""By name, in order."""


def begin(session: Session, own: Ranking | None = None) -> Run:
    """A study under way, whose stages are run as they are asked for."""
    return Run(session, {name: stage.run for name, stage in STAGES.items()}, own)
