"""Scoring in a session: every site by most scorers at once, the study's own sites by the dear ones; kept on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lesion.core.errors import RunError
from lesion.core.importance import Importance, decode, encode
from lesion.core.sites import Sites
from lesion.data.samples import Sample, digest
from lesion.scoring.options import ScoreOptions
from lesion.scoring.pooled import pooled_score, reads
from lesion.scoring.score import score
from lesion.scoring.scorers import get_scorer
from lesion.study import rundir
from lesion.study.options import StudyOptions
from lesion.study.session import Session
from lesion.study.statistics import scorers_for

SCORED = ("can", "activation", "gradient", "taylor")
"""What every study scores besides its own scorer: they cost nothing more, and the controls and the report use them."""


def study_scorers(options: StudyOptions) -> tuple[str, ...]:
    """What a study scores: its own scorer, :data:`SCORED`, and what its mask needs."""
    return tuple(dict.fromkeys((options.scorer, *SCORED, *scorers_for(options.intervention()))))


def rankable(importances: Mapping[str, Importance]) -> dict[str, Importance]:
    """Those by which neurons can be ranked; the others are statistics."""
    return {name: importance for name, importance in importances.items() if get_scorer(name).ranks}


def scored_sites(session: Session) -> Sites:
    """What is scored: every feed-forward site, for the map of the model, and the chosen ones."""
    return Sites({s.key: s for s in (*session.vlm.sites.select(), *session.sites)}.values())


def importances(
    session: Session,
    samples: Sequence[Sample],
    scorers: Sequence[str],
    options: ScoreOptions,
    file: str = rundir.IMPORTANCE,
    sites: Sites | None = None,
) -> dict[str, Importance]:
    """All sites, all scorers: one forward and one backward pass a batch for most of them.

    Scorers that are not for everywhere (:attr:`lesion.scoring.registry.Scorer.everywhere`) score the session's own sites alone,
    unless ``sites`` are given; the others have no entry in their importance.

    Args:
        session: Open.
        samples: On which.
        scorers: Names in :data:`lesion.scoring.scorers.SCORERS`.
        options: Of the scorers.
        file: Name in the run directory; what it holds is used if it was made from the same.
        sites: What is scored; default: :func:`scored_sites`.
    """
    own = session.sites if sites is None else sites
    sites = scored_sites(session) if sites is None else sites
    key = session.key("importance", digest(samples), session.options.target, [s.key for s in sites], *scorers, repr(options))
    kept = _kept(session, file, sites, key)
    if kept is None:
        dear = [name for name in scorers if not get_scorer(name).everywhere]
        kept = _scored(session, samples, [name for name in scorers if name not in dear], options, sites)
        for name in dear:
            # Each by itself: a sample that overflows on a path is left out of that importance, and of no other.
            [scored] = _scored(session, samples, [name], options, own, f" by {name}").values()
            kept[name] = replace(scored, sites=sites)
        session.run.write_bytes(file, encode(kept, key))
    for name in (n for n in scorers if get_scorer(n).needs == "residual"):
        _note_outside(session, kept[name], own)
    return kept


def _kept(session: Session, file: str, sites: Sites, key: str) -> dict[str, Importance] | None:
    """What a file of the run holds; None where it is not there, or was made from something else."""
    data = session.run.read_bytes(file)
    try:
        return None if data is None else decode(data, sites, key)
    except ValueError as error:
        path = session.run.path / file
        raise RunError(f"{path} cannot be read ({error}); delete it to have it made again") from None


def _scored(
    session: Session, samples: Sequence[Sample], scorers: Sequence[str], options: ScoreOptions, sites: Sites, by: str = ""
) -> dict[str, Importance]:
    if not scorers:
        return {}
    prompts, targets = [session.prompts[s.id] for s in samples], [session.targets[s.id] for s in samples]
    with session.progress.stage(f"scoring neurons{by}", len(samples)) as advance:
        model, size = session.vlm.model, session.options.batch_size
        if session.executor is None:
            return score(model, sites, session.vlm.batches(prompts, targets, size), scorers, options, advance)
        ground = session.executor.share(session.ground([s.id for s in samples]).pack())
        batches = session.batches(len(samples))
        elsewhere = [name for name in scorers if reads(name)]
        found = pooled_score(session.executor, ground, batches, sites, elsewhere, options, advance)
        here = [name for name in scorers if name not in elsewhere]
        return found | (score(model, sites, (), here, options) if here else {})


def _note_outside(session: Session, importance: Importance, sites: Sites) -> None:
    """Notes which sites are in no layer with a residual stream. Experts that were given no token are not meant."""
    outside = [s for s in sites if s.reachable and s.expert is None and s.key not in importance.sums]
    if outside:
        session.note(
            f"{importance.scorer} does not score {len(outside)} of {len(sites)} sites, which are in no layer with a residual "
            f"stream, such as {outside[0].key}; their neurons score 0"
        )


def note_unscored(session: Session, importance: Importance, samples: int, sites: Sites) -> None:
    """Notes what the scoring could not see: samples without a finite loss, sites that no gradient reached."""
    if importance.samples < samples:
        count = samples - importance.samples
        session.note(f"{count} samples were left out of the scoring: a loss, an activation or a gradient is not finite")
    unseen = [site for site in sites if site.key not in importance.sums]
    for site in unseen:
        if site.expert is None:
            session.note(f"no gradient reached {site.key}; its neurons score 0")
    idle = {(site.path, site.expert) for site in unseen if site.expert is not None}
    if idle:
        every = {(site.path, site.expert) for site in sites if site.expert is not None}
        session.note(f"{len(idle)} of {len(every)} experts were given no token; their neurons score 0")
