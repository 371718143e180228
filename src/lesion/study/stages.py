"""The stages of a study: each a function that reads what the stages before it left behind, and writes one artefact.

``answers`` -> ``importance`` -> ``ranking`` -> ``curve`` -> ``collapse`` -> ``minimal``, ``controls``, ``blind``, ``search`` ->
``result``

A stage whose artefact is there, made from what is there now, is not run again. So a study that was killed goes on where it
stopped; ``--from STAGE`` makes a stage and those behind it anew; and a file that is replaced by hand (a ``ranking.csv`` of
one's own) is what the stages behind it are made from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from lesion.ablation.measure import Ablation, Control
from lesion.ablation.minimal import Minimal
from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.curve import Curve
from lesion.core.errors import OptionError
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.study import measured_search, rundir
from lesion.study.blind import Looked, look
from lesion.study.conclusion import Findings, warn_of_the_intact_model
from lesion.study.importances import importances as score_all
from lesion.study.importances import note_unscored, rankable, study_scorers
from lesion.study.measured_search import Ground
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.own import own_order
from lesion.study.result import Blind, Result
from lesion.study.searched import Searched
from lesion.study.session import Session


class Run:
    """One study under way: its session, and what its stages have made."""

    def __init__(self, session: Session, own: Ranking | None = None) -> None:
        self.session, self.own = session, own
        self._made: dict[str, Any] = {}

    def get(self, stage: str) -> Any:
        """What a stage makes: made now where that must be, otherwise read from its artefact."""
        if stage not in self._made:
            self._made[stage] = STAGES[stage].run(self)
        return self._made[stage]

    @property
    def importances(self) -> dict[str, Importance]:
        return self.get("importance")

    @property
    def ranking(self) -> Ranking:
        return self.get("ranking")

    @property
    def curve(self) -> Curve:
        return self.get("curve")

    @property
    def collapse(self) -> Collapse:
        return self.get("collapse")

    @property
    def critical(self) -> NeuronSet:
        """The top k*; empty without a collapse."""
        critical = self.ranking.top(self.collapse.k_star or 0)
        critical.identity = self.session.identity
        return critical

    @property
    def ablation(self) -> Ablation:
        if "ablation" not in self._made:
            act = self.session.options.intervention()
            self._made["ablation"] = self.session.ablation(None, act, self.importances if act.needs else {})
        return self._made["ablation"]


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
    kept = session.run.read_json(rundir.CURVE)
    if kept is not None and all(session.run.evaluation(p["evaluation"]) is not None for p in kept["points"]):
        points = [e for p in kept["points"] if (e := session.run.evaluation(p["evaluation"])) is not None]
        return Curve(points, kept["chance"])
    limit = session.options.max_k
    if limit is not None and limit > len(ranked):
        raise OptionError(f"max_k is {limit}; the ranking has {len(ranked):,} neurons")
    baseline = run.ablation.baseline
    warn_of_the_intact_model(session, Curve([baseline.intact], baseline.chance))
    swept = run.ablation.curve(ranked, limit)
    points = [{"k": p.k, "evaluation": p.key, **p.metrics} for p in swept]
    session.run.write_json(rundir.CURVE, {"points": points, "chance": None if swept.chance is None else swept.chance.tolist()})
    return swept


def collapse(run: Run) -> Collapse:
    """Stage 1, k*, and how sure they are."""
    options, kept = run.session.options, run.session.run.read_json(rundir.COLLAPSE)
    if kept is not None:
        kept |= {name: tuple(kept[name]) for name in ("collapsed", "undecided", "k_star_ci")}
        return Collapse(**kept)
    collapsed = detect_collapse(run.curve, options.seed, options.rule())
    run.session.run.write_json(rundir.COLLAPSE, asdict(collapsed))
    return collapsed


def minimal(run: Run) -> Minimal | None:
    """The 1-minimal set within the top k*; None without a collapse, or with too large a one to try."""
    session, path = run.session, run.session.run.path / rundir.MINIMAL
    k_star, limit = run.collapse.k_star, session.options.minimal_limit
    if k_star is not None and k_star > limit:
        session.note(f"k* is above the minimal limit ({limit}); no minimal set was sought")
    if path.exists():
        kept = session.run.read_json(rundir.MINIMAL)
        if kept is None:
            return None
        members = [NeuronEntry.model_validate(entry).neuron() for entry in kept["neurons"]]
        return Minimal(NeuronSet(members).fit(session.sites), kept["verified"], kept["tried"])
    reduced = None if k_star is None or k_star > limit else run.ablation.minimal(run.ranking, k_star)
    session.run.write_json(rundir.MINIMAL, None if reduced is None else {
        "neurons": [NeuronEntry.of(n).model_dump() for n in reduced.neurons], "verified": reduced.verified,
        "tried": reduced.tried,
    })  # fmt: skip
    return reduced


def controls(run: Run) -> list[Control]:
    """Sets of the critical set's size, drawn by chance."""
    session = run.session
    kept = session.run.read_json(rundir.CONTROLS)
    if kept is not None:
        return [
            Control(c["kind"], c["seed"], c["k"], session.run.evaluation(c["evaluation"] or ""), c["decision"]) for c in kept
        ]
    drawn = run.ablation.controls(
        run.critical, run.ranking, run.importances["activation"], session.options.controls, 1000 * session.options.seed
    )
    session.run.write_json(rundir.CONTROLS, [
        {"kind": c.kind, "seed": c.seed, "k": c.k, "decision": c.decision,
         "evaluation": None if c.evaluation is None else c.evaluation.key}
        for c in drawn
    ])  # fmt: skip
    return drawn


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
    kept = session.run.read_json(rundir.SEARCH)
    if kept is not None:
        with suppress(ValidationError):  # another version's is made anew
            return Searched.model_validate(kept)
    found = None
    if session.options.search == "measured":
        seeking = session.ablation(session.ranked, importances=run.importances)
        found = measured_search.search(Ground(session, seeking, run.ablation, run.ranking, run.importances))
    session.run.write_json(rundir.SEARCH, None if found is None else found.model_dump())
    return found


def result(run: Run) -> Result:
    """The answer, put together from everything before."""
    run.critical.save(run.session.run.path / rundir.CRITICAL)
    findings = Findings(
        run.session, run.importances, run.ranking, run.curve, run.collapse, run.critical, run.get("minimal"),
        run.get("controls"), run.get("blind"), run.get("search"),
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
        Stage("minimal", rundir.MINIMAL, ("importance", "ranking", "collapse"), minimal),
        Stage("controls", rundir.CONTROLS, ("importance", "ranking", "collapse"), controls),
        Stage("blind", rundir.BLIND, ("importance", "ranking", "curve", "collapse", "minimal"), blind),
        Stage("search", rundir.SEARCH, ("importance", "ranking"), search),
        Stage(
            "result", rundir.RESULT,
            ("importance", "ranking", "curve", "collapse", "minimal", "controls", "blind", "search"), result,
        ),
    )
}
"""By name, in order."""
