"""A :class:`Spec`: what a replica of a study's model must be, for other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lesion.core.errors import RunError
from lesion.core.identity import Identity
from lesion.core.packet import pack, unpack
from lesion.data.samples import Sample
from lesion.models.vlm import VisionLanguageModel
from lesion.study.manifest import conditions
from lesion.study.options import StudyOptions


@dataclass(frozen=True)
class Spec:
    """What a replica must be.

    Attributes:
        options: The study's.
        conditions: Versions, dtype and identity of the study's model (:func:`lesion.study.manifest.conditions`).
        digests: Sample id -> digest.
        more: Samples that the options do not name.
    """

    options: StudyOptions
    conditions: Mapping[str, Any]
    digests: Mapping[str, str]
    more: Sequence[Sample] = ()

    def pack(self) -> bytes:
        """For other processes."""
        more = [
            {"id": s.id, "category": s.category, "reference": s.reference, "prompt": s.prompt, "image": s.image is not None}
            for s in self.more
        ]
        images = {str(i): np.asarray(s.image) for i, s in enumerate(self.more) if s.image is not None}
        head = {"options": self.options.to_yaml(), "conditions": dict(self.conditions), "digests": dict(self.digests)}
        return pack({**head, "more": more}, images)

    @classmethod
    def unpack(cls, data: bytes) -> Spec:
        """From :meth:`pack`."""
        head, images = unpack(data)
        more = [
            Sample(
                s["id"], Image.fromarray(images[str(i)]) if s["image"] else None, s["category"], s["reference"], s["prompt"]
            )
            for i, s in enumerate(head["more"])
        ]
        return cls(StudyOptions.from_yaml(head["options"], "the study"), head["conditions"], head["digests"], more)

    def check_model(self, vlm: VisionLanguageModel) -> None:
        """Whether a model that was just loaded is the study's.

        Raises:
            RunError: It is another, or versions differ.
        """
        here, there = conditions(vlm, identity := vlm.identity(untouched=True)), self.conditions
        for name, version in there["versions"].items():
            if here["versions"].get(name) != version:
                raise RunError(f"{name} is {here['versions'].get(name)} here and {version} in the study; install the same")
        if identity.differs_from(theirs := Identity.from_dict(there["model"])):
            raise RunError(f"the model here is {identity}, and the study's {theirs}; give both the same")
        if here["dtype"] != there["dtype"]:
            raise RunError(f"the model here is in {here['dtype']}, and the study's in {there['dtype']}; give --dtype")

    def check_samples(self, found: Mapping[str, Sample]) -> None:
        """Whether samples are the study's.

        Raises:
            RunError: One is another, or is not there.
        """
        differing = [id for id, digest in self.digests.items() if id not in found or found[id].digest != digest]
        if differing:
            raise RunError(f"sample {differing[0]} is another here ({len(differing)} such samples); expected the study's data")


def spec_of(
    options: StudyOptions, vlm: VisionLanguageModel, identity: Identity, samples: Sequence[Sample], more: Sequence[Sample]
) -> Spec:
    """What replicas of a study's model must be.

    Args:
        options: The study's.
        vlm: Its model.
        identity: Of the model.
        samples: All of them.
        more: Those among them that the options do not name.
    """
    return Spec(options, conditions(vlm, identity), {s.id: s.digest for s in samples}, more)
