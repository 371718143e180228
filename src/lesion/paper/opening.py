"""Opens a model for the experiments: their options, their samples, and the session that they share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lesion.core.errors import OptionError
from lesion.core.executor import Executor
from lesion.core.progress import Progress, Silent
from lesion.core.sites import Sites
from lesion.data.samples import load_categories, split
from lesion.models.loading import load_structure
from lesion.models.vlm import VisionLanguageModel
from lesion.paper.plan import QUICK_PLAN, QUICK_STUDY, Plan
from lesion.paper.subject import Halves, Subject
from lesion.study.options import StudyOptions
from lesion.study.published import ROLES, known, truth_of
from lesion.study.reading import with_data
from lesion.study.rundir import slug
from lesion.study.session import Session

OWN = ("component", "scorer", "mask", "mask_positions", "layers", "neurons", "force")
"""Options of a study that the experiments vary themselves, or that would leave out what they ask about."""


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
        model: As for :func:`lesion.paper.paper`.
        out: The model's run directory. Default: as for :func:`lesion.paper.paper` with this model alone.
        quick: As for :func:`lesion.paper.paper`.
        progress: Listens to the stages.
        **options: As for :func:`lesion.paper.paper`.

    Raises:
        OptionError, ModelError, DataError, RunError: As for :func:`lesion.paper.paper`.
    """
    plan, (study,) = parse_options([model], quick, options)
    check_fit(model, study, plan)
    folder = Path(out) if out is not None else default_folder(plan, [study]) / slug(study.model)
    with open_subject(model, study, plan, folder, progress or Silent()) as subject:
        yield subject


def name_of(model: str | VisionLanguageModel) -> str:
    return model if isinstance(model, str) else model.name


def parse_options(
    models: Sequence[str | VisionLanguageModel], quick: bool, options: Mapping[str, Any]
) -> tuple[Plan, list[StudyOptions]]:
    """The plan, and the options of a study of each model.

    Raises:
        OptionError: An unknown option, a value that makes no sense, or an option of :data:`OWN`.
    """
    for name in OWN:
        if name in options:
            raise OptionError(f"{name} cannot be set for the paper's experiments: they vary it themselves")
    of_plan = {name: value for name, value in options.items() if name in Plan.model_fields}
    of_study = {name: value for name, value in options.items() if name not in Plan.model_fields}
    plan = Plan.parse(**{**(QUICK_PLAN if quick else {}), **of_plan})
    of_study = {**(QUICK_STUDY if quick else {}), **of_study}
    given = [m if isinstance(m, VisionLanguageModel) else None for m in models]
    asked = [StudyOptions.parse(**{**of_study, "model": name_of(m), "component": "all", "role": "all"}) for m in models]
    return plan, [with_data(study, vlm) for study, vlm in zip(asked, given, strict=True)]


def default_folder(plan: Plan, studies: Sequence[StudyOptions]) -> Path:
    """``runs/paper-<hash of the options>``: the same question finds its own folder again."""
    text = json.dumps([plan.model_dump(), *(s.question() for s in studies)], sort_keys=True)
    return Path("runs") / f"paper-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_fit(model: str | VisionLanguageModel, study: StudyOptions, plan: Plan) -> None:
    """Whether the plan fits a model; one that is not loaded yet is not loaded for it.

    Raises:
        OptionError: The language model has no site of the plan's role, or not the known coordinates that are expected.
    """
    sites: Sites = load_structure(model, study.trust_remote_code) if isinstance(model, str) else model.sites
    roles = list(dict.fromkeys(s.role for s in sites if s.component == "language" and s.reachable))
    if plan.role not in roles:
        raise OptionError(f"role is {plan.role!r}; the language model of {study.model} has {', '.join(roles)}")
    if plan.expect is not None:
        for role in ROLES:
            known(plan.expect).neurons(sites, role)


@contextmanager
def open_subject(
    model: str | VisionLanguageModel,
    study: StudyOptions,
    plan: Plan,
    folder: Path,
    progress: Progress,
    executor: Executor | None = None,
) -> Iterator[Subject]:
    """A model with its images, in its own run directory."""
    notes: list[str] = []
    categories = _categories(study, plan, notes.append)
    more = [sample for pair in categories.values() for half in pair for sample in half]
    loaded = None if isinstance(model, str) else model
    with Session.open(study, loaded, folder, progress, more=more, notes=notes, executor=executor) as session:
        by_category: dict[str, Halves] = {
            # As the model takes them: a model that reads text alone gets them without their images.
            name: ([session.samples[s.id] for s in ranked], [session.samples[s.id] for s in measured])
            for name, (ranked, measured) in categories.items()
        }
        yield Subject(session, plan, by_category, truth_of(session.vlm, plan.expect))


def _categories(study: StudyOptions, plan: Plan, note: Callable[[str], None]) -> dict[str, Halves]:
    """The samples of every category that has at least two."""
    samples = load_categories(study.data, plan.per_category, study.seed, study.strict, note)
    for name in [name for name, members in samples.items() if len(members) < 2]:
        note(f"category {name} has fewer than two images and is left out")
        del samples[name]
    return {name: split(members, study.split) for name, members in samples.items()}
