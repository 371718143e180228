"""The conclusion: puts together everything that a study found as its :class:`lesion.study.result.Result`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lesion.ablation.measure import Control
from lesion.ablation.minimal import Minimal
from lesion.core.collapse import Collapse
from lesion.core.curve import Curve
from lesion.core.metrics import METRICS
from lesion.study.confirmed import Confirmed
from lesion.study.entries import control_entry, criterion_entries, example_entries, point_entry, sample_entries
from lesion.study.health import complaints, near_copies
from lesion.study.listing import Listing
from lesion.study.manifest import conditions
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.result import Blind, Origin, Result
from lesion.study.searched import Searched
from lesion.study.session import Session
from lesion.study.verdict import Verdict

LISTED = 1000
"""Critical neurons spelled out in ``result.json``; ``critical.json`` has them all."""


def warn_of_the_intact_model(session: Session, intact: Curve) -> None:
    """Tells the user before the first mask; the verdict and the notes say it again. The curve may be the intact model alone."""
    for complaint in complaints(intact, session.measured):
        session.progress.warn(f"the intact model does not work on this data: {complaint}")


@dataclass(frozen=True)
class Findings:
    """What the stages of a study found.

    Attributes:
        session: The model, its samples and its run directory.
        listing: The ranking, and what is known of it.
        curve: Of the ranking's prefixes.
        collapse: What it says.
        confirmed: k* measured again, one sample at a time; None without a collapse.
        minimal: None where none was sought.
        controls: Sets of the same size.
        blind: What the ranking does not see; None where nothing was looked at.
        searched: What measuring sets found; None where that was not asked for.
    """

    session: Session
    listing: Listing
    curve: Curve
    collapse: Collapse
    confirmed: Confirmed | None
    minimal: Minimal | None
    controls: Sequence[Control]
    blind: Blind | None = None
    searched: Searched | None = None

    @cached_property
    def complaints(self) -> list[str]:
        """Why the intact model does not work on this data."""
        return complaints(self.curve, self.session.measured)

    def conclude(self) -> Result:
        """The answer; small copies of the images are written for those who show it."""
        session, options, collapse = self.session, self.session.options, self.collapse
        self._note()
        ranking, critical = self.listing.ranking, self.listing.critical
        k_star, end = collapse.k_star, None if collapse.k_star is None else self.curve.at(collapse.k_star)
        entries, chance = [control_entry(c) for c in self.controls], self.curve.chance
        total = session.sites.neurons
        verdict = Verdict.of(options, total, collapse, critical, entries, self.complaints, self.blind)
        sentences = [str(verdict)]
        if self.searched is not None:
            sentences.append(self.searched.sentence(options.model, k_star))
        return Result(
            model=options.model, component=options.component, role=options.role, scorer=ranking.name,
            alpha=options.alpha, samples=len(session.samples), neurons_total=total,
            baseline=self.curve.intact.metrics,
            chance={"clip_score": None if chance is None else float(chance.mean())},
            curve=[point_entry(p, collapse) for p in self.curve], stage1_k=collapse.stage1_k, k_star=k_star,
            k_star_fraction=verdict.share, k_star_ci=collapse.k_star_ci, largest_k=collapse.largest_k,
            monotone=collapse.monotone, undecided=list(collapse.undecided), samples_needed=collapse.samples_needed,
            criterion=options.rule().model_dump(), left_out=collapse.left_out,
            criteria=criterion_entries(self.curve, options.seed),
            critical_neurons=[NeuronEntry.of(ranking[i]) for i in range(min(len(critical), LISTED))],
            minimal_set=None if self.minimal is None else [NeuronEntry.of(n) for n in self.minimal.neurons],
            minimal_verified=self.minimal is not None and self.minimal.verified, controls=entries,
            modes=None if end is None else end.modes,
            examples=[] if end is None else example_entries(session.samples, self.curve.intact, end), top=self.listing.top(),
            places=self.listing.places(), known=self.listing.known_words,
            sample_list=sample_entries(
                list(session.samples.values()), session.ranked, session.measured, options.prompt, session.run.path
            ),
            chance_clip=None if chance is None else chance.tolist(), seed=options.seed,
            complaints=self.complaints, confirmed=self.confirmed, blind=self.blind, searched=self.searched,
            origin=Origin.read(options.model), notes=session.notes,
            handful=verdict.is_handful, verdict=" ".join(sentences),
            command=options.command(), options=options.model_dump(), conditions=conditions(session.vlm, session.identity),
            run=str(session.run.path),
        )  # fmt: skip

    def _note(self) -> None:
        """What a reader should know before believing it, as far as it shows only now."""
        session, collapse = self.session, self.collapse
        if not collapse.monotone:
            session.note("the curve is not monotone: at some k the model does notably better than at a smaller one")
        for metric, why in collapse.left_out.items():
            label = METRICS[metric].label
            if why == "at chance":
                session.note(f"the intact model's {label} is itself at chance, so collapse is judged without it")
            elif session.clip is not None:  # without a CLIP model that was noted when none was loaded
                session.note(f"{label} was not measured, so collapse is judged without it")
        for warning in () if self.confirmed is None else self.confirmed.warnings(session.options.batch_size):
            session.note(warning)
        smaller = [k for k in collapse.undecided if k < (collapse.k_star or 0)]
        if smaller:
            need = f"; about {collapse.samples_needed:,} samples would" if collapse.samples_needed else ""
            session.note(f"k* may be smaller: at k = {', '.join(map(str, smaller))} the samples do not decide{need}")
        if not collapse.enough_samples:
            measured = "1 measured sample is" if collapse.samples == 1 else f"{collapse.samples} measured samples are"
            session.note(f"{measured} too few for an interval, and to tell stage 1 from noise")
        copies = near_copies(session.measured)
        if copies:
            session.note(
                f"{copies} of {len(session.measured)} measured images are near copies of another, so intervals are too narrow"
            )
        for warning in () if self.blind is None else self.blind.warnings:
            session.note(warning)
        # The user was warned of these before the first mask.
        session.notes += [f"the intact model does not work on this data: {complaint}" for complaint in self.complaints]
