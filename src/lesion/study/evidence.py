"""The stages behind a collapse: k* confirmed, the minimal set, controls, what the ranking does not see, the measured search."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from lesion.ablation.measure import Control
from lesion.ablation.minimal import Minimal
from lesion.core.criterion import Baseline, decide
from lesion.core.neurons import NeuronSet
from lesion.study import measured_search, rundir
from lesion.study.blind import Looked, look
from lesion.study.confirmed import Confirmed, ConfirmedPoint
from lesion.study.measured_search import Ground
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.result import Blind
from lesion.study.run import Run
from lesion.study.searched import Searched
from lesion.study.session import Session


def confirmed(run: Run) -> Confirmed | None:
    """k* and the k before it, measured again with one row in a pass; None without a collapse."""
    session, k_star = run.session, run.collapse.k_star
    if (session.run.path / rundir.CONFIRMED).exists():
        return session.run.read_as(rundir.CONFIRMED, Confirmed.model_validate)
    found = None
    if k_star is not None:
        ks = [k for k in run.curve.ks if 0 < k <= k_star][-2:]
        alone, along = run.ablate(alone=True), Baseline(run.curve.intact, run.curve.chance)
        points = []
        with session.progress.stage("confirming k*", len(ks)) as advance:
            for k in ks:
                again = alone(run.ranking.top(k))
                before = decide(session.options.rule(), along, run.curve.at(k))
                points.append(ConfirmedPoint(k=k, curve=before, alone=alone.decide(again), evaluation=again.key))
                advance(1)
        found = Confirmed(points=points)
    session.run.write_json(rundir.CONFIRMED, None if found is None else found.model_dump())
    return found


def minimal(run: Run) -> Minimal | None:
    """The 1-minimal set within the top k*; None without a collapse, or with too large a one to try."""
    session, path = run.session, run.session.run.path / rundir.MINIMAL
    k_star, limit = run.collapse.k_star, session.options.minimal_limit
    if k_star is not None and k_star > limit:
        session.note(f"k* is above the minimal limit ({limit}); no minimal set was sought")
    if path.exists():
        return session.run.read_as(rundir.MINIMAL, lambda data: _minimal(session, data))
    reduced = None if k_star is None or k_star > limit else run.ablation.minimal(run.ranking, k_star)
    session.run.write_json(rundir.MINIMAL, None if reduced is None else {
        "neurons": [NeuronEntry.of(n).model_dump() for n in reduced.neurons], "verified": reduced.verified,
        "tried": reduced.tried,
    })  # fmt: skip
    return reduced


def _minimal(session: Session, data: Any) -> Minimal:
    """As ``minimal.json`` holds it."""
    members = [NeuronEntry.model_validate(entry).neuron() for entry in data["neurons"]]
    return Minimal(NeuronSet(members).fit(session.sites), data["verified"], data["tried"])


def controls(run: Run) -> list[Control]:
    """Sets of the critical set's size, drawn by chance."""
    session = run.session
    kept = session.run.read_as(rundir.CONTROLS, lambda data: [_control(session, entry) for entry in data])
    if kept is not None:
        return kept
    drawn = run.ablation.controls(
        run.critical, run.ranking, run.importances["activation"], session.options.controls, 1000 * session.options.seed
    )
    session.run.write_json(rundir.CONTROLS, [
        {"kind": c.kind, "seed": c.seed, "k": c.k, "decision": c.decision,
         "evaluation": None if c.evaluation is None else c.evaluation.key}
        for c in drawn
    ])  # fmt: skip
    return drawn


def _control(session: Session, data: Any) -> Control:
    """As ``controls.json`` holds one."""
    measured = session.run.evaluation(data["evaluation"] or "")
    return Control(data["kind"], data["seed"], data["k"], measured, data["decision"])


def blind(run: Run) -> Blind | None:
    """What the ranking does not see: the first neuron by activation masked alone, and effects far beyond the first order."""
    session, path = run.session, run.session.run.path / rundir.BLIND
    if path.exists():
        kept = session.run.read_json(rundir.BLIND)
        with suppress(ValidationError):  # another version's is made anew
            seen = None if kept is None else Blind.model_validate(kept)
            if seen is None or seen.alone is None or session.run.evaluation(seen.alone.evaluation) is not None:
                return seen
    found = run.get("minimal")
    looked = Looked(run.ranking, run.importances, run.curve, run.collapse, None if found is None else found.neurons)
    seen = look(session, run.ablation, looked)
    session.run.write_json(rundir.BLIND, None if seen is None else seen.model_dump())
    return seen


def search(run: Run) -> Searched | None:
    """The smallest set by measuring; None where that was not asked for."""
    session = run.session
    if (session.run.path / rundir.SEARCH).exists():
        kept = session.run.read_json(rundir.SEARCH)
        with suppress(ValidationError):  # another version's is made anew
            return None if kept is None else Searched.model_validate(kept)
    found = None
    if session.options.search == "measured":
        seeking = session.ablation(session.ranked, importances=run.importances)
        found = measured_search.search(Ground(session, seeking, run.ablation, run.ranking, run.importances))
    session.run.write_json(rundir.SEARCH, None if found is None else found.model_dump())
    return found
