"""A :class:`Session`: everything that asking a model needs, opened in one place and in one order.

Loading the samples and the model, the CLIP model, the doctor's check, the run directory with its lock: whatever can be wrong
with a question is found before the directory is made. What is asked is up to :mod:`lesion.study.stages`, to
:mod:`lesion.study.check_known` and to :mod:`lesion.paper`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lesion.ablation.clip import ClipScorer, load_clip
from lesion.ablation.evaluator import Evaluator
from lesion.ablation.measure import Ablation
from lesion.core.errors import DataError, OptionError
from lesion.core.identity import Identity
from lesion.core.importance import Importance
from lesion.core.importance import load as load_importances
from lesion.core.importance import save as save_importances
from lesion.core.neurons import NeuronSet
from lesion.core.progress import Progress, Silent
from lesion.core.sites import Sites
from lesion.data.samples import Sample, digest, load_samples, split
from lesion.hooks.intervene import Intervention, Statistics
from lesion.models.inputs import Answer, Prompt
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.options import ScoreOptions
from lesion.scoring.score import score
from lesion.scoring.scorers import CLASS_VALUES, VALUE
from lesion.study import rundir
from lesion.study.doctor import examine
from lesion.study.manifest import check_same, manifest
from lesion.study.options import StudyOptions
from lesion.study.rundir import RunDirectory, default_folder

SCORERS_OF = {"mean": (VALUE,), "class-mean": (VALUE, *CLASS_VALUES.values())}
"""Statistic of an intervention -> the scorers that measure it."""


class Session:
    """A model on samples, in a run directory; use :meth:`open`.

    Attributes:
        options: What is asked, and how answers are made.
        vlm: The model.
        identity: Which model it is.
        samples: Sample id -> sample: all that are ranked or measured on.
        ranked: The samples that neurons are ranked on.
        measured: The samples that masks are measured on.
        sites: The sites whose neurons are asked about: reachable ones of the options' component, role and layers.
        clip: None for no CLIP score.
        run: Where everything is kept.
        progress: Listens to the stages.
        notes: What a reader should know before believing the answer; grows.
    """

    def __init__(
        self,
        options: StudyOptions,
        vlm: VisionLanguageModel,
        identity: Identity,
        samples: Sequence[Sample],
        halves: tuple[list[Sample], list[Sample]],
        clip: ClipScorer | None,
        run: RunDirectory,
        progress: Progress,
        notes: list[str],
    ) -> None:
        self.options, self.vlm, self.identity, self.clip, self.run = options, vlm, identity, clip, run
        self.progress, self.notes = progress, notes
        self.samples = {s.id: s for s in samples}
        self.ranked, self.measured = halves
        self.sites: Sites = chosen_sites(vlm, options)

    @classmethod
    @contextmanager
    def open(
        cls,
        options: StudyOptions,
        model: VisionLanguageModel | None = None,
        out: str | Path | None = None,
        progress: Progress | None = None,
        more: Sequence[Sample] = (),
        notes: Sequence[str] = (),
        ranks: bool = True,
    ) -> Iterator[Session]:
        """Makes everything, and closes the run directory when the context ends.

        Args:
            options: What is asked.
            model: A loaded model; default: the options' one is loaded.
            out: The run directory; default: one named after the options, so that the same question finds its own again.
            progress: Listens to the stages.
            more: Samples beside those of the options.
            notes: The first notes.
            ranks: False where nothing will be ranked: all samples are then for measuring.

        Raises:
            ModelError: The model cannot be loaded or has no feed-forward sites.
            DataError: No usable samples.
            OptionError: An option that does not fit this model.
            RunError: The run directory holds another study, or one of another model or data, or another process works in it.
        """
        progress, collected = progress or Silent(), list(notes)
        folder = Path(out) if out is not None else default_folder(options, options.component, options.role)
        RunDirectory(folder).check(options)

        def note(line: str) -> None:
            collected.append(line)
            progress.warn(line)

        for line in notes:
            progress.warn(line)
        samples = load_samples(options.data, options.samples, options.seed, options.strict, note, options.category)
        split(samples, options.split if ranks else "same")  # what is wrong with it is said before anything is loaded
        if ranks and options.split == "same":
            note("neurons are ranked and measured on the same samples, so k* is fitted to them")
        vlm = model or _load(options, progress)
        samples = as_read(vlm, samples, options.data)
        halves = split(samples, options.split if ranks else "same")
        more = as_read(vlm, more, options.data)
        _check(vlm, chosen_sites(vlm, options), options)
        identity = vlm.identity()
        everything = list({s.id: s for s in (*samples, *more)}.values())
        check_same(RunDirectory(folder), vlm, identity, everything)
        clip = load_clip(options.clip, samples, options.data, options.device, progress, note)
        complaint = examine(vlm, samples[0], options.prompt).complaint
        if complaint:
            note(f"this model fails lesion's self-check ({complaint}); `lesion doctor {options.model}` shows all of it")
        with RunDirectory.open(folder, options) as run, vlm.prepared():
            session = cls(options, vlm, identity, everything, halves, clip, run, progress, collected)
            session.write_manifest(finished=False)
            yield session
            session.write_manifest(finished=True)

    def write_manifest(self, finished: bool) -> None:
        """Writes ``manifest.json``; the number of starts grows where a session begins."""
        about = manifest(
            self.run, self.options, self.vlm, self.identity, self.samples.values(), self.ranked, self.measured, finished
        )
        self.run.write_json(rundir.MANIFEST, about)

    def note(self, line: str) -> None:
        """A line for the reader of the answer, and for the user now; the same line once."""
        if line not in self.notes:
            self.notes.append(line)
            self.progress.warn(line)

    # -- what is computed once -----------------------------------------------------------------------------------------
    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Sample id -> its processed prompt."""
        with self.progress.stage("preparing images", len(self.samples)) as advance:
            prompts = {}
            for sample in self.samples.values():
                prompts[sample.id] = self.vlm.prompt(sample, self.options.prompt)
                advance(1)
            return prompts

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """Sample id -> the intact model's own answer; kept in ``answers.json``."""
        key = self.key("answers", digest(list(self.samples.values())))
        kept = self.run.read_json(rundir.ANSWERS)
        if kept is None or kept["key"] != key:
            answers: dict[str, Answer] = {}
            ids, size = list(self.samples), self.options.batch_size
            prompts = self.prompts
            with self.progress.stage("intact answers", len(ids)) as advance:
                for i in range(0, len(ids), size):
                    part = ids[i : i + size]
                    contexts = self.vlm.embed([prompts[id] for id in part])
                    answers |= dict(zip(part, self.vlm.generate(contexts, self.options.max_new_tokens), strict=True))
                    advance(len(part))
            kept = {"key": key, "answers": {id: {"ids": list(a.ids), "text": a.text} for id, a in answers.items()}}
            self.run.write_json(rundir.ANSWERS, kept)
        return {id: Answer(tuple(a["ids"]), a["text"]) for id, a in kept["answers"].items()}

    @cached_property
    def targets(self) -> dict[str, Answer]:
        """Sample id -> the text whose likelihood is the loss and the reference perplexity."""
        if self.options.target == "answer":
            return self.answers
        missing = [s.id for s in self.samples.values() if not s.reference]
        if missing:
            raise DataError(f"{missing[0]} has no reference text ({len(missing)} such samples); use --target answer")
        return {id: self.vlm.encode(s.reference or "") for id, s in self.samples.items()}

    @property
    def scored_sites(self) -> Sites:
        """What is scored: every feed-forward site, for the map of the model, and the chosen ones."""
        return Sites({s.key: s for s in (*self.vlm.sites.select(), *self.sites)}.values())

    def importances(
        self, samples: Sequence[Sample], scorers: Sequence[str], options: ScoreOptions, file: str = rundir.IMPORTANCE
    ) -> dict[str, Importance]:
        """All sites, all scorers, one forward and one backward pass a batch.

        Args:
            samples: On which.
            scorers: Names in :data:`lesion.scoring.scorers.SCORERS`.
            options: Of the scorers.
            file: Name in the run directory; what it holds is used if it was made from the same.
        """
        sites = self.scored_sites
        key = self.key("importance", digest(samples), self.options.target, [s.key for s in sites], *scorers, repr(options))
        path = self.run.path / file
        importances = load_importances(path, sites, key) if path.exists() else None
        if importances is None:
            ids = [s.id for s in samples]
            batches = self.vlm.batches([self.prompts[i] for i in ids], [self.targets[i] for i in ids], self.options.batch_size)
            with self.progress.stage("scoring neurons", len(ids)) as advance:
                importances = score(self.vlm.model, sites, batches, scorers, options, advance)
            path.parent.mkdir(exist_ok=True)
            save_importances(path, importances, key)
        return importances

    def ablation(
        self,
        samples: Sequence[Sample] | None = None,
        intervention: Intervention | None = None,
        importances: Mapping[str, Importance] | None = None,
    ) -> Ablation:
        """What masks do.

        Args:
            samples: On which; default: those to measure on.
            intervention: Default: the options'.
            importances: Hold the scorers of the statistics that the intervention needs (:data:`SCORERS_OF`).

        Raises:
            OptionError: A statistic of a site was not measured.
        """
        chosen, act = list(self.measured if samples is None else samples), intervention or self.options.intervention()
        statistics = _statistics(self.scored_sites, act, importances or {})
        ids, options = [s.id for s in chosen], self.options

        def evaluator() -> Evaluator:
            return Evaluator(
                self.vlm, chosen, [self.prompts[i] for i in ids], [self.answers[i] for i in ids],
                [self.targets[i] for i in ids], self.clip, options.max_new_tokens, options.batch_size, statistics,
            )  # fmt: skip

        clip, data, values = self.clip.name if self.clip else None, digest(chosen), _digest_of(statistics)

        def key(neurons: NeuronSet) -> str:
            # Without neurons it is the intact model, whatever would become of them.
            what = ("intact", "") if not len(neurons) else (act.id, values)
            return self.key("mask", neurons.digest, *what, data, options.target, clip)

        return Ablation(evaluator, act, options.rule(), key, self.run, self.progress)

    def note_unscored(self, importance: Importance, samples: int, sites: Sites) -> None:
        """Notes what the scoring could not see: samples without a finite loss, sites that no gradient reached."""
        if importance.samples < samples:
            self.note(f"{samples - importance.samples} samples were left out of the scoring: their loss is not finite")
        unseen = [site for site in sites if site.key not in importance.sums]
        for site in unseen:
            if site.expert is None:
                self.note(f"no gradient reached {site.key}; its neurons score 0")
        idle = {(site.path, site.expert) for site in unseen if site.expert is not None}
        if idle:
            every = {(site.path, site.expert) for site in sites if site.expert is not None}
            self.note(f"{len(idle)} of {len(every)} experts were given no token; their neurons score 0")

    def key(self, *parts: Any) -> str:
        """The hash of the model and of everything that decides an outcome."""
        common = (self.identity.key, str(self.vlm.model.dtype), self.options.prompt, self.options.max_new_tokens)
        return hashlib.sha256(json.dumps([*common, *parts]).encode()).hexdigest()[:24]


def chosen_sites(vlm: VisionLanguageModel, options: StudyOptions) -> Sites:
    """The sites that the options choose.

    Raises:
        OptionError: The model has none of them that can reach its answer.
    """
    sites = vlm.sites.select(options.component, options.role, reachable_only=True, layers=options.layers)
    if not len(sites):
        raise OptionError(f"no {options.role} site of component {options.component!r} can reach the model's answer")
    return sites


def as_read(vlm: VisionLanguageModel, samples: Sequence[Sample], data: str) -> list[Sample]:
    """The samples as a model takes them: without their images where it reads text alone.

    Raises:
        DataError: It reads images and there are none, or it reads text alone and all samples would ask the same.
    """
    if vlm.structure.vision is not None:
        blind = [s.id for s in samples if s.image is None]
        if blind:
            raise DataError(f"{vlm.name} reads images, and {data} has none ({blind[0]}); expected images")
        return list(samples)
    if any(s.prompt is None for s in samples):
        raise DataError(
            f"{vlm.name} reads text alone, and {data} has no prompts; expected --data FILE.txt (a prompt a line) or FILE.jsonl "
            "(each object with a prompt)"
        )
    return [replace(s, image=None) for s in samples]


def _load(options: StudyOptions, progress: Progress) -> VisionLanguageModel:
    with progress.stage(f"loading {options.model}", None):
        return load(
            options.model, options.dtype, options.device, options.trust_remote_code, options.device_map, options.quantization
        )


def _check(vlm: VisionLanguageModel, sites: Sites, options: StudyOptions) -> None:
    """Whether the options fit the model."""
    if options.max_k is not None and options.max_k > sites.neurons:
        raise OptionError(f"max_k is {options.max_k}; there are {sites.neurons} neurons of this component and role")
    options.intervention().check(sites, vlm.is_encoder_decoder)


def _statistics(sites: Sites, act: Intervention, importances: Mapping[str, Importance]) -> Statistics:
    statistics: dict[str, dict[str, np.ndarray]] = {}
    for name in act.needs:
        if name not in SCORERS_OF:
            raise OptionError(f"{act.id!r} needs the statistic {name!r}; those that are measured: {', '.join(SCORERS_OF)}")
        overall, *classes = (importances[scorer] for scorer in SCORERS_OF[name])
        values = statistics[name] = {}
        for site in sites:
            if site.key in overall.sums:  # a site that was not seen has no mean; masking it says so
                by_class = [i.values(site) for i in classes] if site.component == "language" else []
                values[site.key] = np.stack(by_class) if by_class else overall.values(site)
    return statistics


def _digest_of(statistics: Statistics) -> str:
    """Statistics depend on the samples that they were measured on, so they are part of an evaluation's key."""
    text = hashlib.sha256()
    for name, by_site in statistics.items():
        for key, values in by_site.items():
            text.update(f"{name}/{key}".encode())
            text.update(np.ascontiguousarray(values).tobytes())
    return text.hexdigest()[:16]
