"""A :class:`Replica`: a study's model in another process, which does what the study asks of it.

It is made from a :class:`~lesion.study.spec.Spec`, loads its own weights and images, and must come to the same model, images
and versions as the study: another is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from lesion.ablation.ground import Ground, request_of
from lesion.ablation.pooled import KINDS, answer
from lesion.ablation.replies import MaskedReplies
from lesion.core.packet import pack, unpack
from lesion.core.sites import Sites
from lesion.data.samples import load_samples
from lesion.hooks.intervene import mask
from lesion.models.loading import load
from lesion.models.threads import computing
from lesion.scoring.options import ScoreOptions
from lesion.scoring.pooled import risen, scored
from lesion.scoring.steepest import promised_rise
from lesion.study.reading import as_read
from lesion.study.spec import Spec

GROUNDS = 2
"""Of so many grounds a replica keeps what it computed of the intact model."""
OURS = ("device", "threads", "device_map")
"""Options that each process may have its own of."""


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
        spec.check_model(self.vlm)
        samples = load_samples(
            options.data, options.samples, options.seed, options.strict, lambda _: None, options.category
        )
        found = {s.id: s for s in as_read(self.vlm, samples, options.data)} | {s.id: s for s in spec.more}
        spec.check_samples(found)
        self._samples = found
        self._prompts: dict[str, Any] = {}
        self._grounds: OrderedDict[str, tuple[Ground, MaskedReplies | None]] = OrderedDict()

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
            if head["kind"] in ("score", "rise"):
                about, _ = self._ground(head["ground"], ground)
                return self._scored(head, about, chosen)
            assert head["kind"] in KINDS, head["kind"]
            requests = [request_of(request, self.vlm.sites) for request in head["requests"]]
            return answer(self._replies(head["ground"], ground), head["kind"], requests, chosen)

    def _scored(self, head: Mapping[str, Any], about: Ground, chosen: range) -> bytes:
        found = {key: self.vlm.sites.get(key) for key in head["sites"]}
        sites = Sites(site for site in found.values() if site is not None)
        prompts, targets = [self._prompt(about.samples[i]) for i in chosen], [about.references[i] for i in chosen]
        batches = self.vlm.batches(prompts, targets, about.batch_size)
        if head["kind"] == "score":
            return scored(self.vlm.model, sites, batches, head["scorers"], ScoreOptions(**head["options"]))
        request = request_of(head["masked"], self.vlm.sites)
        return risen(promised_rise(self.vlm.model, sites, batches, mask(self.vlm.model, request.neurons, request.intervention)))

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
