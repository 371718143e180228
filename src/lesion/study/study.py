"""A :class:`Study`: the question (model, data, prompt, options) and its run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lesion.core.errors import OptionError
from lesion.core.executor import Executor
from lesion.core.identity import Identity
from lesion.core.progress import Progress
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.models.vlm import VisionLanguageModel
from lesion.study.options import StudyOptions, check_text
from lesion.study.own import IN_PYTHON, check_file, own_order
from lesion.study.pipeline import check_stage, run_stages
from lesion.study.place import check_place
from lesion.study.result import Result
from lesion.study.rundir import RANKING, default_folder
from lesion.study.session import Session


class Study:
    """Finds the critical neurons of a vision-language model.

    Args:
        model: An embedded name, a local folder, a hub id, or a loaded :class:`~lesion.models.vlm.VisionLanguageModel`.
        out: The run directory. Default: ``runs/`` and a name made from the options, so that the same study finds its
            own directory again.
        progress: Listens to the stages.
        ranking: Neurons in an order of your own, instead of a scorer's.
        executor: Its replicas of the model answer and score (:mod:`lesion.execution`); default: this process's model.
        **options: See :class:`lesion.study.options.StudyOptions`.

    Raises:
        OptionError: An unknown option, or a value that makes no sense.
    """

    def __init__(
        self,
        model: str | Path | VisionLanguageModel = "tiny-llava",
        out: str | Path | None = None,
        progress: Progress | None = None,
        ranking: Ranking | None = None,
        executor: Executor | None = None,
        **options: Any,
    ) -> None:
        model = os.fspath(model) if isinstance(model, os.PathLike) else model
        if not isinstance(model, str | VisionLanguageModel):
            raise OptionError(f"model is a {type(model).__name__}; expected a name, a folder, or what lesion.load returns")
        check_text("out", None if out is None else str(out))
        self._model = None if isinstance(model, str) else model
        self._ranking, self._progress, self._executor = ranking, progress, executor
        if ranking is not None:
            options["neurons"] = f"{IN_PYTHON}{ranking.digest}"
        self.options = StudyOptions.parse(model=model if isinstance(model, str) else model.name, **options)
        self.out = Path(out) if out is not None else default_folder(self.options, self.options.component, self.options.role)

    def run(self, start: str | None = None) -> Result:
        """Runs what is not done yet, and returns the answer. Run it again to resume.

        Args:
            start: Make this stage (:data:`lesion.study.stages.STAGES`) and those behind it anew.

        Raises:
            ModelError: The model cannot be loaded or has no feed-forward sites.
            DataError: No usable samples.
            OptionError: An option that does not fit this model, or an unknown stage.
            NeuronSetError: Neurons that were given do not fit this model.
            RunError: The run directory holds another study, another model's or other data, or another process works in it.
        """
        check_stage(start)  # before anything is loaded
        check_place(self.out)
        if not (self.out / RANKING).exists():
            check_file(self.options)
        opened = Session.open(
            self.options, self._model, self.out, self._progress, check=self._fits, executor=self._executor
        )
        with opened as session:
            return run_stages(session, self._ranking, start)

    def _fits(self, vlm: VisionLanguageModel, sites: Sites, identity: Identity) -> None:
        """Whether neurons of one's own are this model's."""
        if self._ranking is not None:
            self._ranking[:].fit(sites, identity)
        elif not (self.out / RANKING).exists():
            own_order(self.options, sites, identity)
