"""``lesion paper``: every experiment on every model, as tables, figures and one summary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesion import zoo
from lesion.core.errors import OptionError
from lesion.core.progress import Progress, Silent
from lesion.core.sites import Sites
from lesion.core.tables import Rows
from lesion.data.samples import load_categories, load_samples, split
from lesion.models.loading import load_structure
from lesion.models.vlm import VisionLanguageModel
from lesion.paper.categories import categories
from lesion.paper.collapse_modes import collapse_modes
from lesion.paper.expected import expected
from lesion.paper.luck import luck
from lesion.paper.masks import masks
from lesion.paper.methods import methods
from lesion.paper.part import Part
from lesion.paper.plan import QUICK_PLAN, QUICK_STUDY, Plan
from lesion.paper.stability import stability
from lesion.paper.subject import Halves, Subject
from lesion.paper.two_stages import two_stages
from lesion.paper.verdict import judge
from lesion.paper.where import where
from lesion.paper.write import write
from lesion.study.bench import Bench, as_read, load_clip, load_model, self_check
from lesion.study.manifest import manifest
from lesion.study.options import StudyOptions
from lesion.study.published import truth_of
from lesion.study.rundir import MANIFEST, RunDirectory, slug

MODELS = tuple(name for name in zoo.EMBEDDED if name != "tiny-clip")
PARTS: tuple[Callable[[Subject], Part], ...] = (
    where, two_stages, collapse_modes, categories, methods, masks, luck, stability, judge, expected,
)  # fmt: skip
"""In the order of the summary. What a model's notes say is complete only after the others, so the verdict comes late."""
OWN = ("component", "scorer", "mask")
"""Options of a study that the experiments vary themselves."""


@dataclass(frozen=True)
class Paper:
    """Everything that was found.

    Attributes:
        out: The folder of tables, figures and summary.
        results: Model -> part's name -> part.
        curves: Model -> every point of every curve.
    """

    out: Path
    results: Mapping[str, Mapping[str, Part]]
    curves: Mapping[str, Rows]

    def table(self, part: str) -> Rows:
        """A part's main table over all models.

        Raises:
            KeyError: No part of that name.
        """
        return [{"model": model, **row} for model, parts in self.results.items() for row in parts[part].table()]

    def words(self) -> list[str]:
        """The first sentence about each model."""
        return [parts["verdict"].words()[0] for parts in self.results.values()]

    def _repr_html_(self) -> str:
        return "".join(part._repr_html_() for parts in self.results.values() for part in parts.values())


def paper(
    models: Sequence[str | VisionLanguageModel] = MODELS,
    out: str | Path | None = None,
    quick: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Paper:
    """Runs every experiment of arXiv 2512.00918 and the checks that it lacks. Run again to resume.

    Args:
        models: Embedded names, local folders, hub ids (of these, one after the other is in memory), or loaded models.
        out: Where everything goes. Default: ``runs/`` and a name made from the options.
        quick: A small matrix: every part, few images and few variants.
        progress: Listens to the stages.
        **options: Of :class:`lesion.paper.plan.Plan` and of :class:`lesion.study.options.StudyOptions`.

    Raises:
        OptionError: An unknown option, or one that the experiments vary themselves (:data:`OWN`).
        ModelError, DataError, RunError: As for :class:`lesion.study.study.Study`.
    """
    names = [_name(model) for model in models]
    if not names or len({slug(name) for name in names}) < len(names):
        raise OptionError(f"models are {', '.join(names) or 'none'}; expected at least one, and each once")
    plan, studies = _options(names, quick, options)
    for model, study in zip(models, studies, strict=True):
        if isinstance(model, str) and len(names) > 1:  # not after hours on the models before it
            _check_role(load_structure(model, study.trust_remote_code), plan, model)
    folder = Path(out) if out is not None else _default_folder(plan, studies)
    results: dict[str, dict[str, Part]] = {}
    curves: dict[str, Rows] = {}
    for model, study in zip(models, studies, strict=True):
        with _subject(model, study, plan, folder / slug(study.model), progress or Silent()) as subject:
            parts = [run(subject) for run in PARTS]
            results[study.model] = {part.name: part for part in parts}
            curves[study.model] = [row for cell in subject.cells.values() for row in cell.points()]
    found = Paper(folder, results, curves)
    write(folder, results, curves, {"plan": plan.model_dump(), "studies": [s.model_dump() for s in studies]})
    return found


@contextmanager
def opened(
    model: str | VisionLanguageModel = "tiny-llava",
    out: str | Path | None = None,
    quick: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[Subject]:
    """One model for single experiments, such as ``where(subject)``; they share what they measure.

    Args:
        model: As for :func:`paper`.
        out: The model's run directory. Default: as for :func:`paper` with this model alone.
        quick: As for :func:`paper`.
        progress: Listens to the stages.
        **options: As for :func:`paper`.

    Raises:
        OptionError, ModelError, DataError, RunError: As for :func:`paper`.
    """
    plan, (study,) = _options([_name(model)], quick, options)
    folder = Path(out) if out is not None else _default_folder(plan, [study]) / slug(study.model)
    with _subject(model, study, plan, folder, progress or Silent()) as subject:
        yield subject


def _name(model: str | VisionLanguageModel) -> str:
    return model if isinstance(model, str) else model.name


def _options(models: Sequence[str], quick: bool, given: Mapping[str, Any]) -> tuple[Plan, list[StudyOptions]]:
    for name in OWN:
        if name in given:
            raise OptionError(f"{name} cannot be set for the paper's experiments: they vary it themselves")
    of_plan = {name: value for name, value in given.items() if name in Plan.model_fields}
    of_study = {name: value for name, value in given.items() if name not in Plan.model_fields}
    plan = Plan.parse(**{**(QUICK_PLAN if quick else {}), **of_plan})
    of_study = {**(QUICK_STUDY if quick else {}), **of_study}
    return plan, [StudyOptions.parse(**{**of_study, "model": m, "component": "all", "role": "all"}) for m in models]


def _default_folder(plan: Plan, studies: Sequence[StudyOptions]) -> Path:
    text = json.dumps([plan.model_dump(), *(s.question() for s in studies)], sort_keys=True)
    return Path("runs") / f"paper-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@contextmanager
def _subject(
    model: str | VisionLanguageModel, study: StudyOptions, plan: Plan, folder: Path, progress: Progress
) -> Iterator[Subject]:
    """A model with its images, in its own run directory."""
    RunDirectory(folder).check(study)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        progress.warn(line)

    images, by_category = _images(study, plan, note)
    vlm = load_model(study, progress) if isinstance(model, str) else model
    images = _as_read(vlm, images, study.data)
    by_category = {name: _as_read(vlm, pair, study.data) for name, pair in by_category.items()}
    _check_role(vlm.sites, plan, study.model)
    truth = truth_of(vlm, plan.expect)
    clip = load_clip(study, images[0], progress, note)
    self_check(vlm, images[0][0], study, note)
    samples = {s.id: s for half in (*images, *(h for pair in by_category.values() for h in pair)) for s in half}
    with RunDirectory.open(folder, study) as run:
        bench = Bench(study, vlm, list(samples.values()), clip, run, progress, notes)
        ranked, measured = ([s for pair in (images, *by_category.values()) for s in pair[i]] for i in (0, 1))

        def conditions(finished: bool) -> dict[str, Any]:
            return manifest(run, study, vlm, bench.fingerprint, ranked, measured, finished)

        run.write_json(MANIFEST, conditions(finished=False))
        yield Subject(bench, plan, images, by_category, truth)
        run.write_json(MANIFEST, conditions(finished=True))


def _check_role(sites: Sites, plan: Plan, model: str) -> None:
    if plan.role not in {s.role for s in sites.select("language") if s.reachable}:
        raise OptionError(f"role {plan.role!r} is not in the language model of {model}")


def _as_read(vlm: VisionLanguageModel, pair: Halves, data: str) -> Halves:
    return as_read(vlm, pair[0], data), as_read(vlm, pair[1], data)


def _images(study: StudyOptions, plan: Plan, note: Callable[[str], None]) -> tuple[Halves, dict[str, Halves]]:
    samples = load_samples(study.data, study.samples, study.seed, study.strict, note, study.category)
    found = load_categories(study.data, plan.per_category, study.seed, study.strict, note)
    for name in [name for name, members in found.items() if len(members) < 2]:
        note(f"category {name} has fewer than two images and is left out")
        del found[name]
    return split(samples, study.split), {name: split(members, study.split) for name, members in found.items()}
