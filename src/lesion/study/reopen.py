"""Opening the study of a run directory again, for what is measured behind its stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesion.core.errors import RunError
from lesion.core.progress import Progress
from lesion.models.vlm import VisionLanguageModel
from lesion.study.options import StudyOptions
from lesion.study.run import Run
from lesion.study.rundir import CONFIG
from lesion.study.session import Session
from lesion.study.stages import begin


@contextmanager
def reopened(
    path: str | Path, model: VisionLanguageModel | None = None, progress: Progress | None = None
) -> Iterator[Run]:
    """The study of a run directory; its stages are read as they are asked for.

    Args:
        path: The run directory.
        model: The study's model, loaded; default: it is loaded.
        progress: Listens to the stages.

    Raises:
        RunError: No study, another model or data, another process works there, or the model is to be loaded with code of its
            own.
    """
    config = Path(path) / CONFIG
    if not config.exists():
        raise RunError(f"{path} holds no study ({CONFIG} is missing); expected the run directory of a study")
    options = StudyOptions.from_yaml(config.read_bytes(), str(config))
    if options.trust_remote_code and model is None:
        # The directory may come from anyone: what it asks for is not what its reader asked for.
        raise RunError(
            f"{config} asks to run code that comes with {options.model}; if you trust it, load the model in Python with "
            "trust_remote_code=True, and pass it"
        )
    with Session.open(options, model, path, progress) as session:
        yield begin(session)
