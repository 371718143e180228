"""What lesion is compared with: the same work as it is written without lesion."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lesion.core.neurons import NeuronSet
from lesion.models.decoding import chosen
from lesion.models.inputs import Answer, Prompt, collate
from lesion.models.vlm import VisionLanguageModel

Measured = tuple[list[int], float, float, float]
"""An answer's tokens; mean negative log-likelihoods: of the reference and of the answer by the masked model, and of the answer
by the intact one."""


@contextmanager
def zeroed(model: Any, neurons: NeuronSet) -> Iterator[None]:
    """A forward hook on each module that sets some of its outputs to zero; a pre-hook where neurons are a module's inputs."""
    handles = []
    for site in neurons.sites:
        index = torch.from_numpy(site.channels(neurons.indices(site)))
        module = model.get_submodule(site.path)

        def zero(x: Any, index: Any = index) -> Any:
            return x.index_fill(-1, index.to(x.device), 0)

        if site.side == "input":
            handles.append(module.register_forward_pre_hook(lambda m, args, zero=zero: (zero(args[0]), *args[1:])))
        else:
            handles.append(module.register_forward_hook(lambda m, args, out, zero=zero: zero(out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Loop(ABC):
    """One mask after the other: ``generate`` with the logits that it returns, a pass over the reference, and one over the
    answer without the mask.

    Args:
        vlm: Only its model and its tokens are used.
        prompts: What is asked.
        references: The intact model's answers.
        longest: Longest answer.
        batch: Samples at a time.
    """

    def __init__(
        self, vlm: VisionLanguageModel, prompts: Sequence[Prompt], references: Sequence[Answer], longest: int, batch: int
    ) -> None:
        self.vlm, self.longest = vlm, longest
        self.batches = [
            ([p.inputs for p in prompts[i : i + batch]], references[i : i + batch]) for i in range(0, len(prompts), batch)
        ]

    def measure(self, neurons: NeuronSet) -> list[Measured]:
        """What a set of neurons does to every sample."""
        return [row for rows, references in self.batches for row in self._batch(rows, references, neurons)]

    def likelihood(self, neurons: NeuronSet) -> list[float]:
        """Of the references alone."""
        every = (self._likelihood(rows, [list(a.ids) for a in references], neurons) for rows, references in self.batches)
        return [nll for batch in every for nll in batch]

    def _batch(self, rows: Sequence[Any], references: Sequence[Answer], neurons: NeuronSet) -> list[Measured]:
        vlm = self.vlm
        inputs = collate(rows, vlm.pad, "left")
        with torch.inference_mode():
            output = self.generated(inputs, neurons)
            answers = [list(vlm.answer(ids).ids) for ids in output.sequences[:, inputs["input_ids"].shape[1] :].tolist()]
            log_probs = torch.stack(output.logits, 1).float().log_softmax(-1)
            own = [mean_nll(log_probs[i, : len(ids)], ids) for i, ids in enumerate(answers)]
            of_reference = self._likelihood(rows, [list(a.ids) for a in references], neurons)
            by_intact = self._likelihood(rows, answers, NeuronSet())
        return list(zip(answers, of_reference, own, by_intact, strict=True))

    def options(self) -> dict[str, Any]:
        """Greedy decoding, as :func:`lesion.models.engines.plain_generation` has it."""
        vlm = self.vlm
        image = None if vlm.image_token is None else [vlm.image_token]
        return {
            "max_new_tokens": self.longest, "do_sample": False, "pad_token_id": vlm.pad, "eos_token_id": vlm.eos,
            "suppress_tokens": image, "return_dict_in_generate": True, "output_logits": True,
        }  # fmt: skip

    def _likelihood(self, rows: Sequence[Any], answers: Sequence[Sequence[int]], neurons: NeuronSet) -> list[float]:
        grown = []
        for inputs, ids in zip(rows, answers, strict=True):
            new = torch.tensor([list(ids)])
            more = {"input_ids": new, "attention_mask": torch.ones_like(new)}
            grown.append({k: torch.cat([v, more[k].to(v)], 1) if k in more else v for k, v in inputs.items()})
        inputs = collate(grown, self.vlm.pad, "left")
        keep = max(map(len, answers)) + 1
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = self.logits(inputs, keep, neurons).float()
        pairs = zip(logits, answers, strict=True)
        return [mean_nll(row[keep - 1 - len(ids) : keep - 1].log_softmax(-1), ids) for row, ids in pairs]

    @abstractmethod
    def generated(self, inputs: Any, neurons: NeuronSet) -> Any:
        """The output of ``generate`` under a mask."""

    @abstractmethod
    def logits(self, inputs: Any, keep: int, neurons: NeuronSet) -> torch.Tensor:
        """``[rows, keep, vocabulary]`` under a mask."""


class Hooks(Loop):
    """With PyTorch's own hooks."""

    def generated(self, inputs: Any, neurons: NeuronSet) -> Any:
        with zeroed(self.vlm.model, neurons):
            return self.vlm.model.generate(**inputs, **self.options())

    def logits(self, inputs: Any, keep: int, neurons: NeuronSet) -> torch.Tensor:
        with zeroed(self.vlm.model, neurons):
            return self.vlm.model(**inputs, logits_to_keep=keep, use_cache=False).logits


class Nnsight(Loop):
    """With nnsight's interventions."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        warnings.simplefilter("ignore")
        from nnsight import LanguageModel  # pyright: ignore[reportMissingImports]

        self._traced: Any = LanguageModel(self.vlm.model, tokenizer=self.vlm.tokenizer)

    def _masked(self, neurons: NeuronSet) -> list[tuple[Any, str, torch.Tensor]]:
        """nnsight's modules, which side of each, and which channels."""
        return [(self._traced.get(s.path), s.side, torch.from_numpy(s.channels(neurons.indices(s)))) for s in neurons.sites]

    def generated(self, inputs: Any, neurons: NeuronSet) -> Any:
        masked, traced = self._masked(neurons), self._traced
        if not masked:
            return self.vlm.model.generate(**inputs, **self.options())
        with traced.generate(**self.options()) as tracer:
            with tracer.invoke(dict(inputs)):
                for _ in tracer.iter[:]:
                    for envoy, side, index in masked:
                        getattr(envoy, side)[..., index] = 0
            with tracer.invoke():
                output = traced.generator.output.save()
        return output

    def logits(self, inputs: Any, keep: int, neurons: NeuronSet) -> torch.Tensor:
        masked, traced = self._masked(neurons), self._traced
        if not masked:
            return self.vlm.model(**inputs, logits_to_keep=keep, use_cache=False).logits
        with traced.trace(dict(inputs), logits_to_keep=keep, use_cache=False):
            for envoy, side, index in masked:
                getattr(envoy, side)[..., index] = 0
            output = traced.output.save()
        return output.logits


def mean_nll(log_probs: torch.Tensor, ids: Sequence[int]) -> float:
    """Of an answer, from ``[tokens, vocabulary]``."""
    return -float(np.mean(chosen(log_probs, ids)))
