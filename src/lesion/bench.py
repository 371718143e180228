"""The :class:`Bench`: a loaded model, samples, and a run directory in which everything is computed once.

It gives the intact answers and the importances; :meth:`Bench.measuring` gives a :class:`Measurement`, which masks
neurons and measures on some of the samples. Studies differ in what they ask of it, and share what it knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from lesion import rundir, zoo
from lesion.clip import DEFAULT, EMBEDDED, ClipScorer
from lesion.collapse import Judge
from lesion.controls import KINDS, draw
from lesion.curve import Curve, Point
from lesion.data import SCENES, Sample, digest
from lesion.doctor import examine
from lesion.errors import DataError, OptionError
from lesion.evaluation import Evaluator
from lesion.importance import Importance
from lesion.importance import load as load_importances
from lesion.importance import save as save_importances
from lesion.masking import Means
from lesion.metrics import Judged, summarise
from lesion.minimal import Minimal, backward_elimination, delta_debug
from lesion.models.inputs import Answer, Prompt
from lesion.models.vlm import VisionLanguageModel
from lesion.neurons import NeuronSet
from lesion.options import StudyOptions
from lesion.progress import Progress
from lesion.ranking import Ranking
from lesion.result import Control
from lesion.rundir import RunDirectory
from lesion.scorers import CLASS_VALUES, VALUE, ScoreOptions
from lesion.scoring import score
from lesion.sites import Sites
from lesion.sweep import sweep


def load_model(options: StudyOptions, progress: Progress) -> VisionLanguageModel:
    """The options' model; raises as :func:`lesion.load` does."""
    from lesion.models.loading import load

    with progress.stage(f"loading {options.model}", None):
        return load(
            options.model, options.dtype, options.device, options.trust_remote_code, options.device_map, options.quantization
        )


def load_clip(
    options: StudyOptions, samples: Sequence[Sample], progress: Progress, note: Callable[[str], None]
) -> ClipScorer | None:
    """The options' CLIP model: by its name, or the one that knows the data; None where there is nothing to look at.

    Raises:
        ModelError: It cannot be loaded.
        OptionError: A CLIP model is named, and the samples have no images.
    """
    name = options.clip
    if any(s.image is None for s in samples):
        if name not in ("auto", "none"):
            raise OptionError(f"clip is {name!r}, and the samples have no images; leave out --clip")
        name = "none"
    if name == "none":
        note("no CLIP score: collapse is judged by perplexity alone")
        return None
    if name == "auto":
        embedded = options.data == SCENES or options.model in zoo.EMBEDDED
        name = EMBEDDED if embedded else DEFAULT
    with progress.stage(f"loading {name}", None):
        return ClipScorer(name, options.device)


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


def self_check(vlm: VisionLanguageModel, sample: Sample, options: StudyOptions, note: Callable[[str], None]) -> None:
    """Asks the doctor, and notes what it finds wrong: a study of a model that lesion misreads must say so."""
    complaint = examine(vlm, sample, options.prompt).complaint
    if complaint:
        note(f"this model fails lesion's self-check ({complaint}); `lesion doctor {options.model}` shows all of it")


def mean_scorers(mask: str) -> tuple[str, ...]:
    """The scorers whose values a mask sets: none for ``zero``."""
    return {"zero": (), "mean": (VALUE,), "class-mean": (VALUE, *CLASS_VALUES.values())}[mask]


class Bench:
    """A model on samples, in a run directory.

    Args:
        options: What is asked, and how answers are made (prompt, target, longest answer, batch size).
        vlm: The model.
        samples: All that will be ranked or measured on.
        clip: None for no CLIP score.
        run: Where everything is kept.
        progress: Listens to the stages.
        notes: Grows by one line for everything that a reader should know before believing the answer.

    Raises:
        DataError: ``target`` is ``reference`` and a sample has none.
    """

    def __init__(
        self,
        options: StudyOptions,
        vlm: VisionLanguageModel,
        samples: Sequence[Sample],
        clip: ClipScorer | None,
        run: RunDirectory,
        progress: Progress,
        notes: list[str],
    ) -> None:
        self.options, self.vlm, self.clip, self.run = options, vlm, clip, run
        self.progress, self.notes = progress, notes
        self.samples = {s.id: s for s in samples}
        self.fingerprint = vlm.fingerprint

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
        """Sample id -> the intact model's own answer."""
        key = self.key("answers", digest(list(self.samples.values())))
        if key not in self.run:
            found: dict[str, Answer] = {}
            ids, size = list(self.samples), self.options.batch_size
            prompts = self.prompts
            with self.progress.stage("intact answers", len(ids)) as advance:
                for i in range(0, len(ids), size):
                    part = ids[i : i + size]
                    embeds = self.vlm.embed([prompts[id] for id in part])
                    found |= dict(zip(part, self.vlm.generate(embeds, self.options.max_new_tokens), strict=True))
                    advance(len(part))
            self.run.add_answers(key, found)
        return self.run.answers(key)

    @cached_property
    def targets(self) -> dict[str, Answer]:
        """Sample id -> the text whose likelihood is the loss and the reference perplexity."""
        if self.options.target == "answer":
            return self.answers
        missing = [s.id for s in self.samples.values() if not s.reference]
        if missing:
            raise DataError(f"{missing[0]} has no reference text ({len(missing)} such samples); use --target answer")
        return {id: self.vlm.encode(s.reference or "") for id, s in self.samples.items()}

    def importances(
        self, samples: Sequence[Sample], scorers: Sequence[str], options: ScoreOptions, file: str = rundir.IMPORTANCE
    ) -> dict[str, Importance]:
        """All sites, all scorers, one forward and one backward pass a batch.

        Args:
            samples: On which.
            scorers: Names in :data:`lesion.scorers.SCORERS`.
            options: Of the scorers.
            file: Name in the run directory; what it holds is used if it was made from the same.
        """
        key = self.key("importance", digest(samples), self.options.target, *scorers, repr(options))
        path = self.run.path / file
        found = load_importances(path, self.vlm.sites, key) if path.exists() else None
        if found is None:
            ids = [s.id for s in samples]
            batches = self.vlm.batches([self.prompts[i] for i in ids], [self.targets[i] for i in ids], self.options.batch_size)
            with self.progress.stage("scoring neurons", len(ids)) as advance:
                found = score(self.vlm.model, self.vlm.sites, batches, scorers, options, advance)
            path.parent.mkdir(exist_ok=True)
            save_importances(path, found, key)
        return found

    def measuring(
        self, samples: Sequence[Sample], mask: str = "zero", importances: Mapping[str, Importance] | None = None
    ) -> Measurement:
        """What masks do on some of the samples.

        Args:
            samples: On which.
            mask: See :func:`lesion.masking.mask`.
            importances: For ``mean`` and ``class-mean``: holds :func:`mean_scorers` of that mask.
        """
        means: dict[str, np.ndarray] = {}
        found = [(importances or {})[name] for name in mean_scorers(mask)]
        for site in self.vlm.sites if found else ():
            by_class = [i.values(site) for i in found[1:]] if site.component == "language" else []
            means[site.key] = np.stack(by_class) if by_class else found[0].values(site)
        return Measurement(self, samples, mask, means)

    def say_unscored(self, can: Importance, samples: int, sites: Sites) -> None:
        """Warns of what the scoring could not see: samples without a finite loss, sites that no gradient reached."""
        if can.samples < samples:
            self.warn(f"{samples - can.samples} samples were left out of the scoring: their loss is not finite")
        unseen = [site for site in sites if site.key not in can.sums]
        for site in unseen:
            if site.expert is None:
                self.warn(f"no gradient reached {site.key}; its neurons score 0")
        idle = {(site.path, site.expert) for site in unseen if site.expert is not None}
        if idle:
            every = {(site.path, site.expert) for site in sites if site.expert is not None}
            self.warn(f"{len(idle)} of {len(every)} experts were given no token; their neurons score 0")

    def warn(self, line: str) -> None:
        """A line for the reader of the answer, and for the user now."""
        self.notes.append(line)
        self.progress.warn(line)

    def key(self, *parts: Any) -> str:
        """Of a line in ``evaluations.jsonl``: the hash of the model and of everything that decides the outcome."""
        common = (self.fingerprint, str(self.vlm.model.dtype), self.options.prompt, self.options.max_new_tokens)
        return hashlib.sha256(json.dumps([*common, *parts]).encode()).hexdigest()[:24]


class Measurement:
    """Masks neurons and measures the model, on fixed samples; each mask once, then from the run directory."""

    def __init__(self, bench: Bench, samples: Sequence[Sample], mask: str, means: Means) -> None:
        self.bench, self.samples, self.mask, self._means = bench, list(samples), mask, means

    @cached_property
    def evaluator(self) -> Evaluator:
        bench, ids = self.bench, [s.id for s in self.samples]
        return Evaluator(
            bench.vlm, self.samples, [bench.prompts[i] for i in ids], [bench.answers[i] for i in ids],
            [bench.targets[i] for i in ids], bench.clip, bench.options.max_new_tokens, bench.options.batch_size,
            self.mask, self._means,
        )  # fmt: skip

    def key(self, neurons: NeuronSet) -> str:
        """Of the line in ``evaluations.jsonl`` that holds what a mask does."""
        bench, clip = self.bench, self.bench.clip.name if self.bench.clip else None
        return bench.key("mask", neurons.digest, self.mask, self._filled, digest(self.samples), bench.options.target, clip)

    @cached_property
    def _filled(self) -> str:
        """Hash of the values that a mean mask sets; they depend on the samples that they were measured on."""
        text = hashlib.sha256()
        for name, values in self._means.items():
            text.update(name.encode())
            text.update(np.ascontiguousarray(values).tobytes())
        return text.hexdigest()[:16]

    def __call__(self, neurons: NeuronSet) -> Point:
        """What a mask does."""
        key, run = self.key(neurons), self.bench.run
        if key not in run:
            judged: list[Judged] = self.evaluator(neurons)
            about = {"kind": "mask", "neurons": len(neurons), "digest": neurons.digest, "mask": self.mask}
            run.add_evaluation(key, about, judged, summarise(judged))
        return Point(len(neurons), tuple(run.evaluation(key)))

    @cached_property
    def judge(self) -> Judge:
        """Decides what has collapsed; measures the intact model."""
        intact = self(NeuronSet())
        return Judge(intact, Curve([intact], self.evaluator.chance).chance)

    def curve(self, ranking: Ranking, limit: int | None = None) -> Curve:
        """The progressive sweep of a ranking, up to its collapse or to ``limit`` neurons (default: all)."""
        with self.bench.progress.stage("masking the top k", None) as advance:

            def evaluate(k: int) -> Point:
                point = self(ranking.top(k))
                advance(1)
                return point

            return Curve(sweep(evaluate, self.judge.collapsed, limit or len(ranking)), self.evaluator.chance)

    def minimal(self, ranking: Ranking, k_star: int, by_parts: int | None = None) -> Minimal:
        """The 1-minimal set within the top k*, which collapse the model.

        Args:
            ranking: The most important first.
            k_star: So many collapse the model.
            by_parts: Take away whole parts first (:func:`lesion.minimal.delta_debug`), and stop after so many trials;
                None to try every neuron by itself (:func:`lesion.minimal.backward_elimination`).
        """
        top = [ranking[i] for i in range(k_star)]
        with self.bench.progress.stage("minimal set", None) as advance:

            def collapses(neurons: NeuronSet) -> bool:
                advance(1)
                return self.judge.collapsed(self(neurons))

            return backward_elimination(top, collapses) if by_parts is None else delta_debug(top, collapses, by_parts)

    def controls(
        self, critical: NeuronSet, ranking: Ranking, activation: Importance, seeds: int, first_seed: int = 0
    ) -> list[Control]:
        """Sets of the same size, drawn by chance: ``seeds`` of each kind of :data:`lesion.controls.KINDS`."""
        if not len(critical):
            return []
        controls = []
        with self.bench.progress.stage("controls", len(KINDS) * seeds) as advance:
            for kind in KINDS:
                for seed in range(seeds):
                    drawn = draw(kind, first_seed + seed, critical, ranking, activation)
                    if drawn is None:
                        controls.append(Control(kind=kind, seed=seed, k=len(critical), collapsed=None))
                    else:
                        point = self(drawn)
                        fallen = self.judge.collapsed(point)
                        controls.append(
                            Control(kind=kind, seed=seed, k=len(drawn), collapsed=fallen, evaluation=self.key(drawn),
                                    **point.metrics)
                        )  # fmt: skip
                    advance(1)
        return controls
