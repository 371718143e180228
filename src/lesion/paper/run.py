"""``lesion paper``: every experiment on every model, as tables, figures and one summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesion import zoo
from lesion.core.errors import OptionError
from lesion.core.executor import Executor
from lesion.core.progress import Progress, Silent
from lesion.core.tables import Rows
from lesion.models.vlm import VisionLanguageModel
from lesion.paper.opening import check_fit, default_folder, name_of, open_subject, parse_options
from lesion.paper.part import Part
from lesion.paper.parts import PARTS
from lesion.paper.write import write
from lesion.study.place import check_place
from lesion.study.rundir import slug

MODELS = tuple(name for name in zoo.EMBEDDED if name != "tiny-clip")


@dataclass(frozen=True)
class Paper:
    """Every part of every model.

    Attributes:
        out: The folder of tables, figures and summary.
        results: Model -> part's name -> part.
        cells: Model -> what every curve is, a row a curve.
        curves: Model -> every point of every curve.
    """

    out: Path
    results: Mapping[str, Mapping[str, Part]]
    cells: Mapping[str, Rows]
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
    executor: Executor | None = None,
    **options: Any,
) -> Paper:
    """Runs every experiment of arXiv 2512.00918 and the checks that it lacks. Run again to resume.

    Args:
        models: Embedded names, local folders, hub ids (of these, one after the other is in memory), or loaded models.
        out: Where everything goes. Default: ``runs/`` and a name made from the options.
        quick: A small matrix: every part, few images and few variants.
        progress: Listens to the stages.
        executor: Its replicas of each model answer and score; default: this process's model.
        **options: Of :class:`lesion.paper.plan.Plan` and of :class:`lesion.study.options.StudyOptions`.

    Raises:
        OptionError: An unknown option, or one that the experiments vary themselves (:data:`lesion.paper.opening.OWN`).
        ModelError, DataError, RunError: As for :class:`lesion.study.study.Study`.
    """
    names = [name_of(model) for model in models]
    if not names or len({slug(name) for name in names}) < len(names):
        raise OptionError(f"models are {', '.join(names) or 'none'}; expected at least one, and each once")
    plan, studies = parse_options(models, quick, options)
    for model, study in zip(models, studies, strict=True):  # of all, and not after hours on those before
        check_fit(model, study, plan)
    folder = Path(out) if out is not None else default_folder(plan, studies)
    for study in studies:
        check_place(folder / slug(study.model))
    results: dict[str, dict[str, Part]] = {}
    cells: dict[str, Rows] = {}
    curves: dict[str, Rows] = {}
    for model, study in zip(models, studies, strict=True):
        with open_subject(model, study, plan, folder / slug(study.model), progress or Silent(), executor) as subject:
            parts = [run(subject) for run in PARTS]
            results[study.model] = {part.name: part for part in parts}
            cells[study.model] = [{"curve": c.name, "label": c.label, **c.key.row()} for c in subject.cells.values()]
            curves[study.model] = [row for cell in subject.cells.values() for row in cell.points()]
    every = {"cells": cells, "curves": curves}
    write(folder, results, every, {"plan": plan.model_dump(), "studies": [s.model_dump() for s in studies]})
    return Paper(folder, results, cells, curves)
