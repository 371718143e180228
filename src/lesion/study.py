"""A :class:`Study`: the question (model, images, prompt, options), its stages, and its answer.

Every stage reads what the one before left in the run directory and skips what is there already: a study that was
killed is resumed by running it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesion import rundir
from lesion.clip import DEFAULT, EMBEDDED, ClipScorer
from lesion.collapse import Collapse, Judge, find
from lesion.controls import KINDS, draw
from lesion.curve import Curve, Point
from lesion.data import SCENES, Sample, digest, load_samples
from lesion.errors import DataError, OptionError
from lesion.evaluation import Evaluator
from lesion.importance import Importance
from lesion.importance import load as load_importances
from lesion.importance import save as save_importances
from lesion.manifest import manifest
from lesion.metrics import Judged, summarise
from lesion.minimal import backward_elimination
from lesion.models.vlm import Answer, Prompt, VisionLanguageModel
from lesion.neurons import NeuronSet
from lesion.options import StudyOptions
from lesion.progress import Progress, Silent
from lesion.ranking import Ranking
from lesion.report.figures import save_curve
from lesion.result import Control, CurvePoint, Example, NeuronEntry, Result, verdict
from lesion.rundir import RunDirectory
from lesion.scorers import VALUE
from lesion.scoring import score
from lesion.sites import Sites
from lesion.sweep import sweep
from lesion.zoo import EMBEDDED as EMBEDDED_MODELS

SCORED = ("can", "activation", "gradient", VALUE)
"""What every study scores besides its own scorer: they cost nothing more, and the controls and the report use them."""
LISTED = 1000
"""Critical neurons spelled out in ``result.json``; ``critical.json`` has them all."""


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
        self.out = Path(out) if out is not None else default_folder(self.options)
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
            self.options.data, self.options.samples, self.options.seed, self.options.strict, self._note
        )
        ranked, measured = self._split(samples)
        vlm = self._vlm or self._load()
        sites = vlm.sites.select(self.options.component, self.options.role, reachable_only=True)
        if not len(sites):
            raise OptionError(
                f"no {self.options.role} site of component {self.options.component!r} can reach the model's answer"
            )
        if self.options.max_k is not None and self.options.max_k > sites.neurons:
            raise OptionError(f"max_k is {self.options.max_k}; there are {sites.neurons} neurons of this component and role")
        clip = self._load_clip()
        with RunDirectory.open(self.out, self.options) as run:
            return _Stages(self.options, vlm, sites, clip, ranked, measured, run, self._progress, self._notes).result()

    def _finished(self) -> Result | None:
        data = RunDirectory(self.out).read_json(rundir.RESULT)
        return None if data is None else Result.model_validate(data)

    def _note(self, line: str) -> None:
        self._notes.append(line)
        self._progress.warn(line)

    def _split(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Samples to rank on and samples to measure on."""
        if self.options.split == "same":
            self._note("neurons are ranked and measured on the same samples, so k* is fitted to them")
            return samples, samples
        if len(samples) < 2:
            raise DataError("one usable image; ranking on one half and measuring on the other needs two, or --split same")
        half = (len(samples) + 1) // 2
        return samples[:half], samples[half:]

    def _load(self) -> VisionLanguageModel:
        from lesion.models.loading import load

        with self._progress.stage(f"loading {self.options.model}", None):
            options = self.options
            return load(options.model, options.dtype, options.device, options.trust_remote_code)

    def _load_clip(self) -> ClipScorer | None:
        name = self.options.clip
        if name == "none":
            self._note("no CLIP model: collapse is judged by perplexity alone")
            return None
        if name == "auto":
            embedded = self.options.data == SCENES or self.options.model in EMBEDDED_MODELS
            name = EMBEDDED if embedded else DEFAULT
        with self._progress.stage(f"loading {name}", None):
            return ClipScorer(name, self.options.device)


def default_folder(options: StudyOptions) -> Path:
    """``runs/<model>-<component>-<role>-<hash of the options>``."""
    text = json.dumps(options.question(), sort_keys=True)
    name = options.model.strip("./").replace("/", "--") or "model"
    return Path("runs") / f"{name}-{options.component}-{options.role}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class _Stages:
    """A study in its run directory, one method a stage, in their order."""

    def __init__(
        self,
        options: StudyOptions,
        vlm: VisionLanguageModel,
        sites: Sites,
        clip: ClipScorer | None,
        ranked: Sequence[Sample],
        measured: Sequence[Sample],
        run: RunDirectory,
        progress: Progress,
        notes: list[str],
    ) -> None:
        self.options, self.vlm, self.sites, self.run = options, vlm, sites, run
        self.clip, self.progress, self.notes = clip, progress, notes
        self.ranked, self.measured = list(ranked), list(measured)
        self.fingerprint = vlm.fingerprint
        run.write_json(rundir.MANIFEST, manifest(run, options, vlm, self.fingerprint, self.ranked, self.measured))

    def result(self) -> Result:
        """All stages; the last thing that is written is the answer."""
        everyone = {s.id: s for s in [*self.ranked, *self.measured]}
        prompts = self._prompts(list(everyone.values()))
        answers = self._answers(everyone, prompts)
        targets = self._targets(everyone, answers)
        importances = self._importances(prompts, targets)
        ranking = Ranking(importances[self.options.scorer], self.sites)
        ranking.save(self.run.path / rundir.RANKING, {n: i for n, i in importances.items() if n != VALUE})
        self._prepare_measuring(prompts, answers, targets, importances[VALUE])
        curve = self._curve(ranking)
        collapse = find(curve, self.options.seed)
        judge = Judge(curve.intact, curve.chance)
        critical = ranking.top(collapse.k_star or 0)
        minimal = self._minimal(ranking, collapse, judge)
        controls = self._controls(critical, ranking, importances["activation"], judge)
        critical.model, critical.revision = self.options.model, self.fingerprint
        critical.save(self.run.path / rundir.CRITICAL)
        result = self._answer(ranking, curve, collapse, critical, minimal, controls)
        save_curve(curve, collapse, self.run.path / rundir.FIGURES, result.verdict)
        self.run.write_json(rundir.MANIFEST, manifest(
            self.run, self.options, self.vlm, self.fingerprint, self.ranked, self.measured, finished=True
        ))  # fmt: skip
        self.run.write_json(rundir.RESULT, result.model_dump())
        return result

    # -- the intact model ---------------------------------------------------------------------------------------------
    def _prompts(self, samples: Sequence[Sample]) -> dict[str, Prompt]:
        with self.progress.stage("preparing images", len(samples)) as advance:
            prompts = {}
            for sample in samples:
                prompts[sample.id] = self.vlm.prompt(sample, self.options.prompt)
                advance(1)
            return prompts

    def _answers(self, samples: dict[str, Sample], prompts: dict[str, Prompt]) -> dict[str, Answer]:
        """The intact model's own answers, to every sample."""
        key = self._key("answers", digest(list(samples.values())))
        if key not in self.run:
            found: dict[str, Answer] = {}
            ids, size = list(samples), self.options.batch_size
            with self.progress.stage("intact answers", len(ids)) as advance:
                for i in range(0, len(ids), size):
                    part = ids[i : i + size]
                    embeds = self.vlm.embed([prompts[id] for id in part])
                    found |= dict(zip(part, self.vlm.generate(embeds, self.options.max_new_tokens), strict=True))
                    advance(len(part))
            self.run.add_answers(key, found)
        return self.run.answers(key)

    def _targets(self, samples: dict[str, Sample], answers: dict[str, Answer]) -> dict[str, Answer]:
        """The texts whose likelihood is the loss and the reference perplexity."""
        if self.options.target == "answer":
            return answers
        missing = [s.id for s in samples.values() if not s.reference]
        if missing:
            raise DataError(f"{missing[0]} has no reference text ({len(missing)} such samples); use --target answer")
        return {s.id: self.vlm.encode(s.reference or "") for s in samples.values()}

    # -- scoring ------------------------------------------------------------------------------------------------------
    def _importances(self, prompts: dict[str, Prompt], targets: dict[str, Answer]) -> dict[str, Importance]:
        """All sites, all scorers, one forward and one backward pass a batch."""
        scorers = tuple(dict.fromkeys((self.options.scorer, *SCORED)))
        key = self._key("importance", digest(self.ranked), self.options.target, *scorers, repr(self.options.scoring()))
        path = self.run.path / rundir.IMPORTANCE
        found = load_importances(path, self.vlm.sites, key) if path.exists() else None
        if found is None:
            ids = [s.id for s in self.ranked]
            batches = self.vlm.batches([prompts[i] for i in ids], [targets[i] for i in ids], self.options.batch_size)
            with self.progress.stage("scoring neurons", len(ids)) as advance:
                found = score(self.vlm.model, self.vlm.sites, batches, scorers, self.options.scoring(), advance)
            save_importances(path, found, key)
        can = found["can"]
        if can.samples < len(self.ranked):
            self._warn(f"{len(self.ranked) - can.samples} samples were left out of the scoring: their loss is not finite")
        for site in self.sites:
            if site.key not in can.sums:
                self._warn(f"no gradient reached {site.key}; its neurons score 0")
        return found

    def _warn(self, line: str) -> None:
        self.notes.append(line)
        self.progress.warn(line)

    # -- measuring ----------------------------------------------------------------------------------------------------
    def _prepare_measuring(
        self, prompts: dict[str, Prompt], answers: dict[str, Answer], targets: dict[str, Answer], values: Importance
    ) -> None:
        ids = [s.id for s in self.measured]
        self.evaluator = Evaluator(
            self.vlm, self.measured, [prompts[i] for i in ids], [answers[i] for i in ids], [targets[i] for i in ids],
            self.clip, self.options.max_new_tokens, self.options.batch_size, self.options.mask,
            {s.key: values.values(s) for s in self.sites},
        )  # fmt: skip

    def _mask_key(self, neurons: NeuronSet) -> str:
        clip = self.clip.name if self.clip else None
        return self._key("mask", neurons.digest, self.options.mask, digest(self.measured), self.options.target, clip)

    def measure(self, neurons: NeuronSet) -> list[Judged]:
        """What a mask does; measured once, and read from the run directory from then on."""
        key = self._mask_key(neurons)
        if key not in self.run:
            judged = self.evaluator(neurons)
            about = {"kind": "mask", "neurons": len(neurons), "digest": neurons.digest}
            self.run.add_evaluation(key, about, judged, summarise(judged))
        return self.run.evaluation(key)

    def _curve(self, ranking: Ranking) -> Curve:
        limit = self.options.max_k or len(ranking)
        judge: Judge | None = None
        chance = self.evaluator.chance
        with self.progress.stage("masking the top k", None) as advance:

            def evaluate(k: int) -> Point:
                nonlocal judge
                point = Point(k, tuple(self.measure(ranking.top(k))))
                advance(1)
                if k == 0:
                    judge = Judge(point, Curve([point], chance).chance)
                return point

            points = sweep(evaluate, lambda point: judge is not None and judge.collapsed(point), limit)
        return Curve(points, chance)

    def _minimal(self, ranking: Ranking, collapse: Collapse, judge: Judge) -> NeuronSet | None:
        """The 1-minimal set within the top k*; None without a collapse, or with too large a one to try."""
        if collapse.k_star is None:
            return None
        if collapse.k_star > self.options.minimal_limit:
            self._warn(f"k* is above the minimal limit ({self.options.minimal_limit}); no minimal set was sought")
            return None
        with self.progress.stage("minimal set", None) as advance:

            def collapses(neurons: NeuronSet) -> bool:
                advance(1)
                return judge.collapsed(Point(len(neurons), tuple(self.measure(neurons))))

            return backward_elimination([ranking[i] for i in range(collapse.k_star)], collapses)

    def _controls(
        self, critical: NeuronSet, ranking: Ranking, activation: Importance, judge: Judge
    ) -> list[Control]:
        if not len(critical):
            return []
        controls = []
        with self.progress.stage("controls", len(KINDS) * self.options.controls) as advance:
            for kind in KINDS:
                for seed in range(self.options.controls):
                    drawn = draw(kind, 1000 * self.options.seed + seed, critical, ranking, activation)
                    if drawn is None:
                        controls.append(Control(kind=kind, seed=seed, k=len(critical), collapsed=None))
                    else:
                        point = Point(len(drawn), tuple(self.measure(drawn)))
                        fallen, key = judge.collapsed(point), self._mask_key(drawn)
                        controls.append(
                            Control(kind=kind, seed=seed, k=len(drawn), collapsed=fallen, evaluation=key, **point.metrics)
                        )
                    advance(1)
        return controls

    # -- the answer ---------------------------------------------------------------------------------------------------
    def _answer(
        self,
        ranking: Ranking,
        curve: Curve,
        collapse: Collapse,
        critical: NeuronSet,
        minimal: NeuronSet | None,
        controls: list[Control],
    ) -> Result:
        options, k_star = self.options, collapse.k_star
        if not collapse.monotone:
            self.notes.append("the curve is not monotone: at some k the model is better than at a smaller one")
        end = curve.at(k_star) if k_star is not None else None
        return Result(
            model=options.model, component=options.component, role=options.role, scorer=options.scorer,
            alpha=options.alpha, samples=len({s.id for s in [*self.ranked, *self.measured]}), neurons_total=len(ranking),
            baseline=curve.intact.metrics,
            chance={"clip_score": None if curve.chance is None else float(curve.chance.mean())},
            curve=[
                CurvePoint(
                    k=p.k, collapsed=p.k in collapse.collapsed, modes=p.modes,
                    evaluation=self._mask_key(ranking.top(p.k)), **p.metrics,
                )
                for p in curve
            ],
            stage1_k=collapse.stage1_k, k_star=k_star,
            k_star_fraction=None if k_star is None else k_star / len(ranking),
            k_star_ci=collapse.k_star_ci, largest_k=collapse.largest_k, monotone=collapse.monotone,
            critical=[NeuronEntry(**ranking[i].as_dict()) for i in range(min(len(critical), LISTED))],
            minimal_set=None if minimal is None else [NeuronEntry(**n.as_dict()) for n in minimal],
            minimal_verified=minimal is not None, controls=controls, modes=None if end is None else end.modes,
            examples=[] if end is None else self._examples(curve.intact, end), notes=self.notes,
            verdict=verdict(
                k_star, len(ranking), collapse.largest_k, options.component, options.role, controls,
                len(critical.by_layer()),
            ),
            run=str(self.run.path),
        )  # fmt: skip

    def _examples(self, intact: Point, masked: Point) -> list[Example]:
        samples = {s.id: s for s in self.measured}
        return [
            Example(
                sample=before.id, category=samples[before.id].category, reference=samples[before.id].reference,
                intact=before.answer, masked=after.answer, mode=after.mode,
            )
            for before, after in zip(intact.judged, masked.judged, strict=True)
        ]  # fmt: skip

    def _key(self, *parts: Any) -> str:
        """Of a line in ``evaluations.jsonl``: the hash of the model and of everything that decides the outcome."""
        common = (self.fingerprint, str(self.vlm.model.dtype), self.options.prompt, self.options.max_new_tokens)
        return hashlib.sha256(json.dumps([*common, *parts]).encode()).hexdigest()[:24]
