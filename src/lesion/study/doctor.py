"""The doctor: does lesion understand this model? Every answer comes from running it on one image, none from its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from lesion.data.samples import DEFAULT_PROMPT, SCENES, Sample, load_samples
from lesion.hooks.capture import capture_activations
from lesion.hooks.intervene import mask
from lesion.models import gguf, memory
from lesion.models.discovery import discover
from lesion.models.loading import ProcessorError, load, load_weights
from lesion.models.placement import run_device
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.score import score

if TYPE_CHECKING:
    import torch

    from lesion.core.importance import Importance

MASKED = 8
"""Neurons of each kind that are masked together to see whether anything changes: the top ones by activation."""
TOKENS = 8
"""Of the answer that the checks are made on."""
LONGEST = 64
"""A study's longest answer, if nothing else is asked for."""


@dataclass(frozen=True)
class Check:
    """One question about a model.

    Attributes:
        name: What was asked.
        ok: Whether the answer is as it must be; None where it is for information.
        found: What was seen.
    """

    name: str
    ok: bool | None
    found: str


@dataclass(frozen=True)
class Diagnosis:
    """All answers, in the order in which they were asked; after one that failed no more are asked."""

    model: str
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return not any(check.ok is False for check in self.checks)

    @property
    def complaint(self) -> str:
        """The first failed check in one line; empty where none failed."""
        return next((f"{c.name}: {c.found}" for c in self.checks if c.ok is False), "")

    def table(self) -> list[dict[str, Any]]:
        return [{"check": c.name, "ok": c.ok, "found": c.found} for c in self.checks]


def examine(vlm: VisionLanguageModel, sample: Sample, prompt: str) -> Diagnosis:
    """Runs all checks on one image: a short answer, one scoring pass, and two masked passes for each kind of site.

    Args:
        vlm: The model; it is left as it was.
        sample: Any image that it can read.
        prompt: What it is asked.
    """
    checks = [*_file(vlm.name), *_facts(vlm.model), *_handling(vlm)]
    for check in _Examination(vlm, sample, prompt).checks():
        checks.append(check)
        if check.ok is False:
            break
    return Diagnosis(vlm.name, tuple(checks))


def diagnose(
    name: str,
    data: str | None = None,
    prompt: str | None = None,
    warn: Callable[[str], None] = lambda _: None,
    **loading: Any,
) -> Diagnosis:
    """Loads a model and examines it.

    Args:
        name: As for :func:`lesion.models.loading.load`.
        data: One sample of it is used; default: an embedded scene, or the prompt alone for a model that reads no images.
        prompt: What the model is asked; None for the default.
        warn: Called with one line for each image that is skipped.
        **loading: Other arguments of :func:`lesion.models.loading.load`.

    Returns:
        The diagnosis. Without a processor nothing can be run: it then says what the module tree alone tells, and fails.

    Raises:
        ModelError, OptionError, DataError: The model or the data cannot be loaded.
    """
    try:
        vlm = load(name, **loading)
    except ProcessorError as error:
        return _not_run(load_weights(name, **loading), name, str(error))
    prompt = prompt or DEFAULT_PROMPT
    if data is None and vlm.structure.vision is None:
        return examine(vlm, Sample("prompt", None, prompt=prompt), prompt)
    (sample,) = load_samples(data or SCENES, 1, warn=warn)
    return examine(vlm, sample, prompt)


def _not_run(model: Any, name: str, complaint: str) -> Diagnosis:
    """What is known of a model without a processor: not enough to say that lesion understands it."""
    sites = discover(model)
    by_tree = f"{len(sites)} with {sites.neurons:,} neurons, by the module tree alone"
    failed = Check("processor", False, f"{complaint}; nothing was run")
    return Diagnosis(name, (*_facts(model), Check("sites", None, by_tree), failed))


def _file(name: str) -> list[Check]:
    """What a GGUF file says of itself; nothing for another model."""
    if not gguf.is_gguf(name):
        return []
    header = gguf.read_header(name)
    return [Check("GGUF file", None, str(header)), Check("lost in the file", None, header.lost)]


def _facts(model: Any) -> list[Check]:
    """What there is to know of a model before anything is run."""
    quantised = getattr(getattr(model, "quantization_method", None), "value", None)
    placed = sorted(set(map(str, (getattr(model, "hf_device_map", None) or {"": run_device(model)}).values())))
    return [
        Check("class", None, f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters"),
        Check("dtype and device", None, f"{str(model.dtype).removeprefix('torch.')} on {', '.join(placed)}"
              f"{f', quantised with {quantised}' if quantised else ''}"),
        Check("memory of the weights", None, memory.text(memory.weights(model))),
    ]  # fmt: skip


def _handling(vlm: VisionLanguageModel) -> list[Check]:
    """How a model is asked and run."""
    template = "chat template" if getattr(vlm.processor, "chat_template", None) else "no chat template: the prompt as it is"
    return [
        Check("processor", None, f"{type(vlm.processor).__name__}, {template}"),
        Check("engine", None, "the image part is run once for all masks of the language model" if vlm.engine.one_pass
              else "the whole model is run for every mask"),
    ]  # fmt: skip


class _Examination:
    """The model with one prompt and its answer."""

    def __init__(self, vlm: VisionLanguageModel, sample: Sample, prompt: str) -> None:
        self.vlm, self.prompt = vlm, vlm.prompt(sample, prompt)
        self.contexts = vlm.embed([self.prompt])
        self.answers = vlm.generate(self.contexts, TOKENS)

    def checks(self) -> Iterator[Check]:
        """The checks, one by one."""
        vlm, sites = self.vlm, self.vlm.sites
        ids = self.answers[0].ids
        yield Check("generation", len(ids) > 0, f"{len(ids)} tokens: {self.answers[0].text[:60]!r}")
        before = self._log_probs()
        yield Check("log-probabilities are finite", bool(before.isfinite().all()), f"of shape {tuple(before.shape)}")
        yield self._widths()
        with mask(vlm.model, NeuronSet()):
            same = bool((self._log_probs() == before).all())
        yield Check("masking nothing changes nothing", same, "the same log-probabilities, bit for bit" if same else "others")
        graph = memory.Graph(vlm.model)
        with graph:
            importances = score(vlm.model, sites, vlm.batches([self.prompt], self.answers, 1), ("activation", "gradient"))
        to_score = f"kept for the backward pass here, with an answer of {len(ids)} tokens"
        yield Check("memory to score", None, f"the weights and {memory.text(graph.size)} a sample ({to_score})")
        kept = memory.generation(vlm.model, self.prompt.inputs["input_ids"].shape[1] + LONGEST, LONGEST)
        to_mask = f"by arithmetic, for answers of {LONGEST} tokens"
        yield Check("memory to mask", None, f"the weights and {memory.text(kept)} a sample of a batch ({to_mask})")
        yield from self._gradients(importances["gradient"])
        for component, role in dict.fromkeys((s.component, s.role) for s in sites):
            kind, reachable = sites.select(component, role), sites.select(component, role, reachable_only=True)
            if len(reachable):
                yield self._mask_check(f"masking {component} {role}", reachable, importances, before, True)
            if any(not s.reachable for s in kind):
                unreachable = Sites(s for s in kind if not s.reachable)
                yield self._mask_check(f"masking unreachable {component} {role}", unreachable, importances, before, False)
        as_before = bool((self._log_probs() == before).all())
        yield Check("nothing is left behind", as_before, "the same log-probabilities as before" if as_before else "others")

    def _log_probs(self) -> torch.Tensor:
        # Contexts are made anew: masks of the image part act on them.
        return self.vlm.answer_log_probs(self.vlm.embed([self.prompt]), self.answers)[0]

    def _widths(self) -> Check:
        """Whether every site's module ran and gave what its neurons were counted from."""
        seen: dict[str, int] = {}
        size = 0

        def see(site: Site, x: torch.Tensor) -> None:
            nonlocal size
            seen[site.key] = x.shape[-1]
            size += x.numel() * x.element_size()

        import torch

        (batch,) = self.vlm.batches([self.prompt], self.answers, 1)
        with capture_activations(self.vlm.model, self.vlm.sites, see), torch.no_grad():
            batch.losses()
        # An expert that no token is given to is not run.
        running = [s for s in self.vlm.sites if s.reachable and (s.expert is None or s.key in seen)]
        wrong = [s for s in running if seen.get(s.key) != s.width * s.group]
        if wrong:
            site = wrong[0]
            channels = site.width * site.group
            return Check("sites", False, f"{site.key} should have {channels} channels, gives {seen.get(site.key)}")
        counted = f"{len(self.vlm.sites)} with {self.vlm.sites.neurons:,} neurons"
        return Check("sites", True, f"{counted}; {size / 2**20:,.1f} MiB of activations an image")

    def _gradients(self, gradient: Importance) -> Iterator[Check]:
        # Of a layer's experts some are given no token, or only tokens whose output the loss does not read.
        kinds: dict[tuple[str, str], list[Site]] = {}
        for site in (s for s in self.vlm.sites if s.reachable):
            kinds.setdefault((site.path, site.role), []).append(site)
        silent = [sites[0] for sites in kinds.values() if not any(gradient.values(s).any() for s in sites)]
        loud = [s for s in self.vlm.sites if not s.reachable and gradient.values(s).any()]
        together = ", experts of a layer taken together" if any(s.expert is not None for s in self.vlm.sites) else ""
        yield Check("gradients arrive", not silent, f"none at {silent[0].key} ({len(silent)} modules)" if silent
                    else f"at all {len(kinds)} reachable sites{together}")  # fmt: skip
        if any(not s.reachable for s in self.vlm.sites):
            count = sum(not s.reachable for s in self.vlm.sites)
            yield Check("unreachable sites are silent", not loud, f"a gradient at {loud[0].key}" if loud
                        else f"{count} sites run for nothing, and no gradient reaches them")  # fmt: skip

    def _mask_check(
        self, name: str, sites: Sites, importances: dict[str, Importance], before: torch.Tensor, expected: bool
    ) -> Check:
        # The ranking leaves unreachable sites out, so these are masked whole.
        neurons = Ranking(importances["activation"], sites).top(min(MASKED, sites.neurons)) if expected else _all(sites)
        with mask(self.vlm.model, neurons):
            change = float((self._log_probs() - before).abs().max())
        moved = change > 0 or change != change
        return Check(name, moved == expected, f"{len(neurons)} neurons move the log-probabilities by up to {change:.2g}")


def _all(sites: Sites) -> NeuronSet:
    import numpy as np

    return NeuronSet.from_arrays({site: np.arange(site.width) for site in sites})

