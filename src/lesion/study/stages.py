"""The stages of a study: each a function that reads what the stages before it left behind, and writes one artefact.

``answers`` -> ``importance`` -> ``ranking`` -> ``curve`` -> ``collapse`` -> ``minimal``, ``controls`` -> ``result``

A stage whose artefact is there, made from what is there now, is not run again. So a study that was killed goes on where it
stopped; ``--from STAGE`` makes a stage and those behind it anew; and a file that is replaced by hand (a ``ranking.csv`` of
one's own) is what the stages behind it are made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesion.ablation.measure import Ablation, Control
from lesion.ablation.minimal import Minimal
from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.curve import Curve
from lesion.core.errors import OptionError, RunError
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.scoring.scorers import get_scorer
from lesion.study import rundir
from lesion.study.conclusion import Findings
from lesion.study.result import NeuronEntry, Result
from lesion.study.session import SCORERS_OF, Session

GIVEN = "given:"
"""What the option ``neurons`` begins with where a ranking was given as an object."""
SCORED = ("can", "activation", "gradient")
"""What every study scores besides its own scorer: they cost nothing more, and the controls and the report use them."""


class Run:
    """One study under way: its session, and what its stages have made."""

    def __init__(self, session: Session, given: Ranking | None = None) -> None:
        self.session, self.given = session, given
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
    statistics = [scorer for name in options.intervention().needs for scorer in SCORERS_OF.get(name, ())]
    scorers = tuple(dict.fromkeys((options.scorer, *SCORED, *statistics)))
    importances = session.importances(session.ranked, scorers, options.scoring())
    session.note_unscored(importances["can"], len(session.ranked), session.sites)
    return importances


def ranking(run: Run) -> Ranking:
    """The neurons by the study's scorer, or in an order that was given."""
    session, path = run.session, run.session.run.path / rundir.RANKING
    importances = run.importances
    if path.exists():
        order = Ranking.load(path, session.sites)
        if order.name == session.options.scorer and len(order) == session.sites.neurons:
            order.importance = importances.get(order.name)
        return order
    order = run.given or given_ranking(session) or Ranking(importances[session.options.scorer], session.sites)
    order.save(path, {n: i for n, i in importances.items() if get_scorer(n).ranks})
    return order


def given_ranking(session: Session) -> Ranking | None:
    """The neurons of ``--neurons``: a ranking (CSV), or a set (JSON) in order of site and index; None where none are given.

    Raises:
        NeuronSetError: They cannot be read, belong to another model, or are not of the chosen component and role.
    """
    file, options = session.options.neurons, session.options
    if file is None or file.startswith(GIVEN):
        return None
    if Path(file).suffix == ".csv":
        return Ranking.load(file, session.sites)
    neurons = NeuronSet.load(file)
    if options.force and session.identity.differs_from(neurons.identity):
        session.note(f"--force: the neurons were found in {neurons.identity}; this model is {session.identity}")
    return Ranking.of(neurons.fit(session.sites, session.identity, options.force), session.sites, Path(file).name)


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
    swept = run.ablation.curve(ranked, limit)
    points = [{"k": p.k, "evaluation": p.key, **p.metrics} for p in swept]
    session.run.write_json(rundir.CURVE, {"points": points, "chance": None if swept.chance is None else swept.chance.tolist()})
    return swept


def collapse(run: Run) -> Collapse:
    """Stage 1, k*, and how sure they are."""
    options, kept = run.session.options, run.session.run.read_json(rundir.COLLAPSE)
    if kept is not None:
        low, high = kept.pop("k_star_ci")
        lists = {name: tuple(kept.pop(name)) for name in ("collapsed", "undecided")}
        return Collapse(**kept, **lists, k_star_ci=(low, high))
    collapsed = detect_collapse(run.curve, options.seed, options.rule())
    run.session.run.write_json(rundir.COLLAPSE, asdict(collapsed))
    return collapsed


def minimal(run: Run) -> Minimal | None:
    """The 1-minimal set within the top k*; None without a collapse, or with too large a one to try."""
    session, path = run.session, run.session.run.path / rundir.MINIMAL
    if path.exists():
        kept = session.run.read_json(rundir.MINIMAL)
        if kept is None:
            return None
        members = [NeuronEntry.model_validate(entry).neuron() for entry in kept["neurons"]]
        return Minimal(NeuronSet(members).fit(session.sites), kept["verified"], kept["tried"])
    k_star, limit = run.collapse.k_star, session.options.minimal_limit
    reduced = None
    if k_star is not None and k_star > limit:
        session.note(f"k* is above the minimal limit ({limit}); no minimal set was sought")
    elif k_star is not None:
        reduced = run.ablation.minimal(run.ranking, k_star)
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


def result(run: Run) -> Result:
    """The answer, put together from everything before."""
    run.critical.save(run.session.run.path / rundir.CRITICAL)
    findings = Findings(
        run.session, run.importances, run.ranking, run.curve, run.collapse, run.critical, run.get("minimal"),
        run.get("controls"),
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
        Stage("curve", rundir.CURVE, ("answers", "ranking"), curve),
        Stage("collapse", rundir.COLLAPSE, ("curve",), collapse),
        Stage("minimal", rundir.MINIMAL, ("ranking", "collapse"), minimal),
        Stage("controls", rundir.CONTROLS, ("ranking", "collapse"), controls),
        Stage("result", rundir.RESULT, ("minimal", "controls"), result),
    )
}
"""By name, in order."""


def run_stages(session: Session, given: Ranking | None = None, start: str | None = None) -> Result:
    """Runs every stage whose artefact is missing, or was made from something else than is there now.

    Args:
        session: Open.
        given: A ranking of one's own.
        start: This stage and those behind it are made anew.

    Raises:
        OptionError: No stage has the name.
    """
    if start is not None and start not in STAGES:
        raise OptionError(f"stage {start!r} is unknown; expected one of {', '.join(STAGES)}")
    made_from: dict[str, dict[str, str]] = session.run.read_json(rundir.STAGES) or {}
    if start is not None:
        names = list(STAGES)
        for name in names[names.index(start) :]:
            _forget(session, STAGES[name])
    folder, run = session.run.path, Run(session, given)
    for stage in STAGES.values():
        inputs = {STAGES[name].artefact: _digest(folder / STAGES[name].artefact) for name in stage.after}
        if (folder / stage.artefact).exists() and made_from.get(stage.name) == inputs:
            continue
        if stage.name in made_from:
            _forget(session, stage)  # it was made from something else than is there now
        run.get(stage.name)
        made_from[stage.name] = inputs
        session.run.write_json(rundir.STAGES, made_from)
    return _read(session, run)


def _read(session: Session, run: Run) -> Result:
    """``result.json``; made anew where another version wrote it."""
    try:
        return Result.load(session.run.path)
    except RunError:
        session.progress.warn(f"{session.run.path / rundir.RESULT} is another version's; made anew from what was measured")
        return result(run)


def _forget(session: Session, stage: Stage) -> None:
    """Removes a stage's artefact, so that it is made anew. Evaluations stay: they are keyed by everything that decides them."""
    (session.run.path / stage.artefact).unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""
