"""A study's model: loaded, what it can read of the data, and which of its sites are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lesion.core.errors import DataError, OptionError
from lesion.core.progress import Progress
from lesion.core.sites import Sites
from lesion.data.samples import PROMPTS, SCENES, Sample
from lesion.models.loading import load, reads_text_alone
from lesion.models.vlm import VisionLanguageModel
from lesion.study.options import StudyOptions
from lesion.study.statistics import scorers_for


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


def chosen_sites(vlm: VisionLanguageModel, options: StudyOptions) -> Sites:
    """The sites that the options choose.

    Raises:
        OptionError: The model has none of them that can reach its answer.
    """
    sites = vlm.sites.select(options.component, options.role, reachable_only=True, layers=options.layers)
    if not len(sites):
        raise OptionError(f"no {options.role} site of component {options.component!r} can reach the model's answer")
    return sites


def loaded(options: StudyOptions, progress: Progress) -> VisionLanguageModel:
    """The options' model."""
    with progress.stage(f"loading {options.model}", None):
        return load(
            options.model, options.dtype, options.device, options.trust_remote_code, options.device_map, options.quantization
        )


def check_fit(vlm: VisionLanguageModel, sites: Sites, options: StudyOptions) -> None:
    """Whether the options fit the model.

    Raises:
        OptionError: One does not.
    """
    if options.max_k is not None and options.max_k > sites.neurons:
        raise OptionError(f"max_k is {options.max_k}; there are {sites.neurons} neurons of this component and role")
    act = options.intervention()
    act.check(sites, vlm.is_encoder_decoder)
    scorers_for(act)
