"""A :class:`Study`: the question (model, images, prompt, options), its stages, and its answer.

Every stage reads what the one before left in the run directory and skips what is there already: a study that was
killed is resumed by running it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lesion import rundir
from lesion.bench import Bench, Measurement, as_read, load_clip, load_model, mean_scorers, self_check
from lesion.collapse import Collapse, find
from lesion.conclusion import Findings
from lesion.data import Sample, load_samples, split
from lesion.errors import OptionError
from lesion.evaluation import usable_masks
from lesion.importance import Importance
from lesion.manifest import manifest
from lesion.minimal import Minimal
from lesion.models.vlm import VisionLanguageModel
from lesion.options import StudyOptions
from lesion.progress import Progress, Silent
from lesion.ranking import Ranking
from lesion.report.figures import save_curve
from lesion.result import Result
from lesion.rundir import RunDirectory, default_folder
from lesion.scorers import get_scorer
from lesion.sites import Sites

SCORED = ("can", "activation", "gradient")
"""What every study scores besides its own scorer: they cost nothing more, and the controls and the report use them."""


class Study:
    """Finds the critical neurons of a vision-language model.

    Args:
        model: An embedded name, a local folder, a hub id, or a loaded :class:`~lesion.models.vlm.VisionLanguageModel`.
        out: The run directory. Default: ``runs/`` and a name made from the options, so that the same study finds its
            own directory again.
        progress: Listens to the stages.
        **options: See :class:`lesion.options.StudyOptions`.

    Raises:
        OptionError: An unknown option, or a value that makes no sense.
    """

    def __init__(
        self,
        model: str | VisionLanguageModel = "tiny-llava",
        out: str | Path | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self._vlm = None if isinstance(model, str) else model
        self.options = StudyOptions.parse(model=model if isinstance(model, str) else model.name, **options)
        self.out = Path(out) if out is not None else default_folder(self.options, self.options.component, self.options.role)
        self._progress: Progress = progress or Silent()
        self._notes: list[str] = []

    def run(self) -> Result:
        """Runs what is not done yet, and returns the answer.

        Raises:
            ModelError: The model cannot be loaded or has no feed-forward sites.
            DataError: No usable images.
            OptionError: An option that does not fit this model.
            RunError: The run directory holds another study, or another process works in it.
        """
        RunDirectory(self.out).check(self.options)
        if (done := self._finished()) is not None:
            return done
        # Everything that can be wrong with the question is found before the directory is made.
        samples = load_samples(
            self.options.data, self.options.samples, self.options.seed, self.options.strict, self._note, self.options.category
        )
        self._check_split(samples)
        vlm = self._vlm or load_model(self.options, self._progress)
        samples = as_read(vlm, samples, self.options.data)
        ranked, measured = split(samples, self.options.split)
        sites = vlm.sites.select(self.options.component, self.options.role, reachable_only=True)
        if not len(sites):
            raise OptionError(
                f"no {self.options.role} site of component {self.options.component!r} can reach the model's answer"
            )
        if self.options.max_k is not None and self.options.max_k > sites.neurons:
            raise OptionError(f"max_k is {self.options.max_k}; there are {sites.neurons} neurons of this component and role")
        usable = usable_masks(vlm, sites)
        if self.options.mask not in usable:
            raise OptionError(f"mask {self.options.mask!r} is not for these sites of this model; usable: {', '.join(usable)}")
        clip = load_clip(self.options, samples, self._progress, self._note)
        self_check(vlm, samples[0], self.options, self._note)
        with RunDirectory.open(self.out, self.options) as run:
            bench = Bench(self.options, vlm, samples, clip, run, self._progress, self._notes)
            return _Stages(bench, sites, ranked, measured).result()

    def _finished(self) -> Result | None:
        """The answer of before; None where there is none, or one that another version wrote."""
        data = RunDirectory(self.out).read_json(rundir.RESULT)
        try:
            return None if data is None else Result.model_validate(data)
        except ValidationError:
            self._progress.warn(f"{self.out / rundir.RESULT} is another version's; made anew from what was measured")
            return None

    def _note(self, line: str) -> None:
        self._notes.append(line)
        self._progress.warn(line)

    def _check_split(self, samples: list[Sample]) -> None:
        """Before anything is loaded: whether there are samples to rank on and samples to measure on."""
        split(samples, self.options.split)
        if self.options.split == "same":
            self._note("neurons are ranked and measured on the same samples, so k* is fitted to them")


class _Stages:
    """A study on its bench, one stage after the other."""

    def __init__(self, bench: Bench, sites: Sites, ranked: Sequence[Sample], measured: Sequence[Sample]) -> None:
        self.bench, self.options, self.sites = bench, bench.options, sites
        self.ranked, self.measured = list(ranked), list(measured)

    def result(self) -> Result:
        """All stages; the last thing that is written is the answer."""
        bench, run = self.bench, self.bench.run
        self._write_manifest(finished=False)
        importances = self._importances()
        ranking = Ranking(importances[self.options.scorer], self.sites)
        ranking.save(run.path / rundir.RANKING, {n: i for n, i in importances.items() if get_scorer(n).ranks})
        measure = bench.measuring(self.measured, self.options.mask, importances)
        curve = measure.curve(ranking, self.options.max_k)
        collapse = find(curve, self.options.seed)
        critical = ranking.top(collapse.k_star or 0)
        minimal = self._minimal(measure, ranking, collapse)
        controls = measure.controls(
            critical, ranking, importances["activation"], self.options.controls, 1000 * self.options.seed
        )
        critical.model, critical.revision = self.options.model, bench.fingerprint
        critical.save(run.path / rundir.CRITICAL)
        result = Findings(
            bench, self.ranked, self.measured, importances, measure, ranking, curve, collapse, critical, minimal, controls
        ).conclude()
        save_curve(curve, collapse, run.path / rundir.FIGURES, result.verdict)
        self._write_manifest(finished=True)
        run.write_json(rundir.RESULT, result.model_dump())
        return result

    def _write_manifest(self, finished: bool) -> None:
        bench = self.bench
        about = manifest(bench.run, self.options, bench.vlm, bench.fingerprint, self.ranked, self.measured, finished)
        bench.run.write_json(rundir.MANIFEST, about)

    def _importances(self) -> dict[str, Importance]:
        scorers = tuple(dict.fromkeys((self.options.scorer, *SCORED, *mean_scorers(self.options.mask))))
        found = self.bench.importances(self.ranked, scorers, self.options.scoring())
        self.bench.say_unscored(found["can"], len(self.ranked), self.sites)
        return found

    def _minimal(self, measure: Measurement, ranking: Ranking, collapse: Collapse) -> Minimal | None:
        """The 1-minimal set within the top k*; None without a collapse, or with too large a one to try."""
        if collapse.k_star is None:
            return None
        if collapse.k_star > self.options.minimal_limit:
            self.bench.warn(f"k* is above the minimal limit ({self.options.minimal_limit}); no minimal set was sought")
            return None
        return measure.minimal(ranking, collapse.k_star)
