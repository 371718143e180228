"""``lesion certify``: masks every single neuron of a study's sites, and on request pairs, and says what that proves.

The answer is a lower bound: where no single neuron collapses the model, the smallest set that does has two or more on this
data. A search, however long, cannot say that. What is measured goes into a
:class:`~lesion.study.certificate.Certificate`, and a process that was killed goes on with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from pydantic import BaseModel, Field

from lesion.ablation.measure import Ablation
from lesion.ablation.units import Request
from lesion.core.criterion import told
from lesion.core.errors import OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.progress import Progress
from lesion.models.vlm import VisionLanguageModel
from lesion.study.certificate import FILE, FORMAT, Certificate, Members
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.reopen import reopened
from lesion.study.run import Run

CHUNK = 64
"""So many sets are measured between two writes."""
TRIED, EACH = 5, 2
"""For the estimate, so many sites are tried with so many neurons each."""
WORST = 20
"""So many sets are listed, the most harmful first."""


class WorstEntry(BaseModel):
    """A set, and what masking it does."""

    neurons: list[NeuronEntry]
    rise: float | None = Field(description="of the mean NLL of the reference answers, in nats; None where it is not finite")
    collapsed: bool | None = Field(description="None where the samples do not decide")


class Certified(BaseModel):
    """What a certificate says."""

    model: str
    what: str = Field(description="the neurons in words")
    samples: int
    singles: int = Field(description="neurons that were masked alone")
    total: int = Field(description="neurons there are")
    singles_collapsed: int
    singles_undecided: int
    pairs: int = Field(description="pairs that were masked")
    within: int | None = Field(description="the most harmful singles that pairs were made of; None where none were")
    pairs_collapsed: int
    pairs_undecided: int
    worst: list[WorstEntry]
    seconds: float = Field(description="what this call took for measuring")
    certificate: str

    @property
    def at_least(self) -> int | None:
        """The smallest set has at least so many neurons on this data; None where nothing can be said."""
        if self.singles < self.total or self.singles_undecided:
            return None
        return 1 if self.singles_collapsed else 2

    def __str__(self) -> str:
        if self.singles < self.total:
            return f"{self.singles:,} of {self.what} were masked alone; that proves nothing of the others."
        if self.singles_collapsed:
            does = "collapses" if self.singles_collapsed == 1 else "collapse"
            first = f"{self.singles_collapsed:,} of {self.what} {does} {self.model} alone"
        else:
            first = f"None of {self.what} collapses {self.model} alone"
        lines = [f"{first}: all were measured, on {self.samples} samples."]
        if self.singles_undecided:
            lines.append(f"Of {self.singles_undecided:,} the samples do not tell.")
        elif not self.singles_collapsed:
            lines.append("The smallest set that does has at least two on this data.")
        if self.within is not None:
            unsure = f", of {self.pairs_undecided:,} the samples do not tell" if self.pairs_undecided else ""
            does = {0: "none does", 1: "1 does"}.get(self.pairs_collapsed, f"{self.pairs_collapsed:,} do")
            lines.append(f"Of the {self.pairs:,} pairs of the {self.within:,} most harmful ones, {does}{unsure}.")
        return " ".join(lines)


def certify(
    run: str | Path,
    pairs: int | None = None,
    model: VisionLanguageModel | None = None,
    progress: Progress | None = None,
    estimated: Callable[[str], bool] | None = None,
) -> Certified | None:
    """Masks every neuron of a study's sites alone, on the samples that the study measures on.

    Args:
        run: The study's run directory; the certificate is written there.
        pairs: Mask the pairs of so many most harmful neurons as well.
        model: The study's model, loaded; default: it is loaded.
        progress: Listens to the stages.
        estimated: Told how long it will take, in words; says whether to go on.

    Returns:
        What the certificate says; None where ``estimated`` said no.

    Raises:
        RunError: No study, another process works there, or what is there of a certificate is about something else.
        OptionError: The study's criterion does not look at the perplexity of the reference answers, or ``pairs`` is below 2.
    """
    if pairs is not None and pairs < 2:
        raise OptionError(f"pairs is {pairs}; expected at least 2 neurons to make pairs of")
    with reopened(run, model, progress) as opened:
        return _Work(opened).run(pairs, estimated)


class _Work:
    """Measures what is not in the certificate yet."""

    def __init__(self, run: Run) -> None:
        self._session, self._sites = run.session, [s for s in run.session.sites if s.reachable]
        self._ablation: Ablation = run.ablation
        self._seconds = 0.0
        criterion, baseline = self._ablation.criterion, self._ablation.baseline
        if not criterion.early(baseline):
            raise OptionError(
                f"criterion {criterion.name!r} does not look at the perplexity of the reference answers, which is what a "
                "certificate holds; certify a study by one that does, such as perplexity"
            )
        intact = [o.reference for o in baseline.intact.outcomes]
        self._certificate = Certificate.open(run.session.run.path / FILE, {
            "format": FORMAT, "model": run.session.identity.as_dict(), "mask": self._ablation.intervention.id,
            "criterion": criterion.model_dump(), "samples": [o.id for o in baseline.intact.outcomes],
            "tokens": [part.tokens for part in intact], "intact": [part.nll for part in intact],
            "sites": [{**s.location, "width": s.width} for s in self._sites],
        })  # fmt: skip

    def run(self, pairs: int | None, estimated: Callable[[str], bool] | None) -> Certified | None:
        """Singles, then pairs, then what the likelihoods leave open."""
        chunks = [
            (number, first, min(CHUNK, site.width - first))
            for number, site in enumerate(self._sites)
            for first in range(0, site.width, CHUNK)
            if ((number, first),) not in self._certificate.nll
        ]
        masks = sum(count for _, _, count in chunks)
        # How many pairs there will be is known; that each takes as long as a single one is a guess.
        to_come = masks + (0 if pairs is None else pairs * (pairs - 1) // 2 - len(list(self._certificate.sets(2))))
        if estimated is not None and not estimated(self._estimate(max(to_come, 0))):
            return None
        start = time.perf_counter()
        with self._session.progress.stage("single neurons", masks) as advance:
            for number, first, count in chunks:
                sets: list[Members] = [((number, first + i),) for i in range(count)]
                self._certificate.add_singles(number, first, self._measure(sets))
                advance(count)
        if pairs is not None:
            self._pairs(pairs)
        self._decide()
        return self._certified(pairs, time.perf_counter() - start)

    def _pairs(self, within: int) -> None:
        ranked = sorted(self._certificate.sets(1), key=self._certificate.rise, reverse=True)[:within]
        wanted = [tuple(sorted((*a, *b))) for a, b in combinations(ranked, 2)]
        missing = [pair for pair in wanted if pair not in self._certificate.nll]
        with self._session.progress.stage("pairs", len(missing)) as advance:
            for at in range(0, len(missing), CHUNK):
                part = missing[at : at + CHUNK]
                self._certificate.add_pairs(part, self._measure(part))
                advance(len(part))

    def _measure(self, sets: Sequence[Members]) -> list[list[float | None]]:
        """The mean NLL of each sample's reference answer under each set."""
        requests = [Request(self._neurons(members), self._ablation.intervention) for members in sets]
        found = {place: r for group in self._ablation.evaluator.read(requests) for place, r in group.items()}
        return [[part.nll for part in found[place]] for place in range(len(requests))]

    def _neurons(self, members: Members) -> NeuronSet:
        return NeuronSet(Neuron(self._sites[site], index) for site, index in members)

    def _decide(self) -> None:
        """Asks the criterion about sets of which the likelihoods alone do not say that the model stands."""
        criterion, baseline, certificate = self._ablation.criterion, self._ablation.baseline, self._certificate
        for members in [m for m in certificate.nll if m not in certificate.collapsed]:
            early = criterion.decide_early(baseline, certificate.likelihoods(members))
            if early == "standing":
                continue
            decision = self._ablation.decisions([self._neurons(members)])[0] if early is None else early
            certificate.add_decision(members, told(decision))

    def _estimate(self, masks: int) -> str:
        """How long it will take, from a few neurons of a few sites."""
        sites = [round(i * (len(self._sites) - 1) / max(TRIED - 1, 1)) for i in range(TRIED)]
        tried: list[Members] = [((s, i),) for s in dict.fromkeys(sites) for i in range(min(EACH, self._sites[s].width))]
        self._measure(tried[:1])  # what is made once is made now
        start = time.perf_counter()
        self._measure(tried)
        seconds = masks * (time.perf_counter() - start) / len(tried)
        words = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        samples = len(self._session.measured)
        return f"{masks:,} masks on {samples} samples: about {words}, by {len(tried)} of them"

    def _certified(self, within: int | None, seconds: float) -> Certified:
        certificate = self._certificate
        worst = sorted(certificate.nll, key=certificate.rise, reverse=True)[:WORST]
        answers = {size: [certificate.collapsed.get(m, False) for m in certificate.sets(size)] for size in (1, 2)}
        options, total = self._session.options, sum(s.width for s in self._sites)
        entries = [
            WorstEntry(
                neurons=[NeuronEntry.of(n) for n in self._neurons(m)], collapsed=certificate.collapsed.get(m, False),
                rise=rise if math.isfinite(rise := certificate.rise(m)) else None,
            )
            for m in worst
        ]  # fmt: skip
        kind = " ".join(word for word in (options.component, options.role) if word != "all")
        return Certified(
            model=options.model, what=f"{total:,} {kind} neurons", samples=len(self._session.measured), singles=len(answers[1]),
            total=total, singles_collapsed=answers[1].count(True), singles_undecided=answers[1].count(None),
            pairs=len(answers[2]), within=within, pairs_collapsed=answers[2].count(True),
            pairs_undecided=answers[2].count(None), worst=entries, seconds=seconds, certificate=str(certificate.path),
        )  # fmt: skip
