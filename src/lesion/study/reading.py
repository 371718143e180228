"""What a study's model can read of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lesion.core.errors import DataError
from lesion.data.samples import PROMPTS, SCENES, Sample
from lesion.models.loading import reads_text_alone
from lesion.models.vlm import VisionLanguageModel
from lesion.study.options import StudyOptions


def with_data(options: StudyOptions, vlm: VisionLanguageModel | None = None) -> StudyOptions:
    """The options, in which the embedded scenes are the embedded prompts for a model that reads text alone."""
    if options.data != SCENES:
        return options
    alone = vlm.structure.vision is None if vlm else reads_text_alone(options.model, options.trust_remote_code)
    return options.model_copy(update={"data": PROMPTS}) if alone else options


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
