"""A :class:`Replica`: a study's model in another process, which does what the study asks of it.

It is made from a :class:`Spec`, loads its own weights and images, and must come to the same model, images and versions as the
study: another is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from lesion.ablation.ground import Ground, request_of
from lesion.ablation.pooled import KINDS, answer
from lesion.ablation.replies import MaskedReplies
from lesion.core.errors import RunError
from lesion.core.identity import Identity
from lesion.core.packet import pack, unpack
from lesion.core.sites import Sites
from lesion.data.samples import Sample, load_samples
from lesion.models.loading import load
from lesion.models.threads import computing
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.options import ScoreOptions
from lesion.scoring.pooled import scored
from lesion.study.manifest import conditions
from lesion.study.options import StudyOptions
from lesion.study.reading import as_read

GROUNDS = 2
"""Of so many grounds a replica keeps what it computed of the intact model."""
OURS = ("device", "threads", "device_map")
"""Options that each process may have its own of."""


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


class Replica:
    """A study's model, and its samples.

    Args:
        spec: What it must be.
        own: Values of :data:`OURS` in this process; default: the study's.

    Raises:
        RunError: It would be another: other versions, weights, dtype or images.
    """

    def __init__(self, spec: Spec, **own: Any) -> None:
        options = self._options = spec.options.model_copy(update=own)
        self._computing = computing(options.threads)
        self._computing.__enter__()  # until the process ends
        self.vlm = load(
            options.model, options.dtype, options.device, options.trust_remote_code, options.device_map, options.quantization
        )
        self._check_model(spec)
        samples = load_samples(
            options.data, options.samples, options.seed, options.strict, lambda _: None, options.category
        )
        found = {s.id: s for s in as_read(self.vlm, samples, options.data)} | {s.id: s for s in spec.more}
        differing = [id for id, digest in spec.digests.items() if id not in found or found[id].digest != digest]
        if differing:
            raise RunError(f"sample {differing[0]} is another here ({len(differing)} such samples); expected the study's data")
        self._samples = found
        self._prompts: dict[str, Any] = {}
        self._grounds: OrderedDict[str, tuple[Ground, MaskedReplies | None]] = OrderedDict()

    def _check_model(self, spec: Spec) -> None:
        here, there = conditions(self.vlm, self.identity), spec.conditions
        for name, version in there["versions"].items():
            if here["versions"].get(name) != version:
                raise RunError(f"{name} is {here['versions'].get(name)} here and {version} in the study; install the same")
        if self.identity.differs_from(Identity.from_dict(there["model"])):
            raise RunError(f"the model here is {self.identity}, and the study's {Identity.from_dict(there['model'])}")
        if here["dtype"] != there["dtype"]:
            raise RunError(f"the model here is in {here['dtype']}, and the study's in {there['dtype']}; give --dtype")

    @cached_property
    def identity(self) -> Identity:
        """Which model it is."""
        return self.vlm.identity(untouched=True)

    def do(self, task: bytes, ground: Callable[[str], bytes]) -> bytes:
        """Does a task.

        Args:
            task: What is asked, packed.
            ground: From the name of a ground to what was shared.
        """
        head, _ = unpack(task)
        with self.vlm.prepared():
            if head["kind"] == "answers":
                contexts = self.vlm.embed([self._prompt(id) for id in head["samples"]])
                return pack([a.as_dict() for a in self.vlm.generate(contexts, self._options.max_new_tokens)])
            chosen = range(*head["samples"])
            if head["kind"] == "score":
                about, _ = self._ground(head["ground"], ground)
                return self._score(head, about, chosen)
            assert head["kind"] in KINDS, head["kind"]
            requests = [request_of(request, self.vlm.sites) for request in head["requests"]]
            return answer(self._replies(head["ground"], ground), head["kind"], requests, chosen)

    def _score(self, head: Mapping[str, Any], about: Ground, chosen: range) -> bytes:
        found = {key: self.vlm.sites.get(key) for key in head["sites"]}
        sites = Sites(site for site in found.values() if site is not None)
        prompts, targets = [self._prompt(about.samples[i]) for i in chosen], [about.references[i] for i in chosen]
        batches = self.vlm.batches(prompts, targets, about.batch_size)
        return scored(self.vlm.model, sites, batches, head["scorers"], ScoreOptions(**head["options"]))

    def _prompt(self, id: str) -> Any:
        if id not in self._prompts:
            self._prompts[id] = self.vlm.prompt(self._samples[id], self._options.prompt)
        return self._prompts[id]

    def _ground(self, name: str, fetch: Callable[[str], bytes]) -> tuple[Ground, MaskedReplies | None]:
        if name not in self._grounds:
            self._grounds[name] = Ground.unpack(fetch(name)), None
            while len(self._grounds) > GROUNDS:
                self._grounds.popitem(last=False)
        self._grounds.move_to_end(name)
        return self._grounds[name]

    def _replies(self, name: str, fetch: Callable[[str], bytes]) -> MaskedReplies:
        about, replies = self._ground(name, fetch)
        if replies is None:
            replies = MaskedReplies(
                self.vlm, [self._prompt(id) for id in about.samples], about.intact, about.references, about.max_new_tokens,
                about.batch_size, about.statistics, None, about.alone,
            )  # fmt: skip
            self._grounds[name] = about, replies
        return replies


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
