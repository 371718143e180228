"""A :class:`Batch`: prompts with their answers, as :func:`lesion.scoring.score.score` runs them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lesion.core.sites import Site
from lesion.models.handle import ModelHandle
from lesion.models.inputs import Answer, Prompt, collate, with_answer
from lesion.models.tokens import CLASSES, token_classes

if TYPE_CHECKING:
    import torch


class Batch:
    """Prompts and answers for the whole model, right-padded; a :class:`lesion.scoring.score.ScoringBatch`.

    An encoder-decoder has the prompt in its encoder and the answer in its decoder; a decoder has one after the other.
    """

    def __init__(self, handle: ModelHandle, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> None:
        import torch

        self._handle, self.samples = handle, [p.sample for p in prompts]
        if handle.is_encoder_decoder:
            self.inputs = collate([p.inputs for p in prompts], handle.pad)
            ids = [{"input_ids": torch.tensor([a.ids], device=handle.device)} for a in answers]
            self.targets = collate(ids, -1)["input_ids"]
            spoken = self.targets.clamp(min=0)
            start = torch.full_like(spoken[:, :1], handle.model.generation_config.decoder_start_token_id)
            self.inputs["decoder_input_ids"] = torch.cat([start, spoken[:, :-1]], dim=1)
        else:
            types = handle.structure.family.answer_type
            rows = [with_answer(p.inputs, a.ids, types) for p, a in zip(prompts, answers, strict=True)]
            self.inputs = collate(rows, handle.pad)
        ids, real = self.inputs["input_ids"], self.inputs["attention_mask"].bool()
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        starts = torch.tensor([p.inputs["input_ids"].shape[1] for p in prompts], device=ids.device)[:, None]
        self.answer = real & (places >= starts)
        image = real & (ids == (-1 if handle.image_token is None else handle.image_token))
        self._positions = {
            "all": real, "image": image, "prompt": real & ~self.answer & ~image, "answer": self.answer,
            "first": real & (places == 0),
            **{f"{name} class": real & (token_classes(ids, image) == i) for i, name in enumerate(CLASSES)},
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.samples)

    def losses(self) -> torch.Tensor:
        """Mean negative log-likelihood of each row's answer, float32 ``[rows]``."""
        import torch

        logits = self._handle.model(**self.inputs, use_cache=False).logits.float()
        if self._handle.is_encoder_decoder:
            targets, counted = self.targets.clamp(min=0), self.targets >= 0
        else:
            logits, targets, counted = logits[:, :-1], self.inputs["input_ids"][:, 1:], self.answer[:, 1:]
        # Prompts hold tokens (the image's) that some vocabularies of the output lack.
        known = torch.where(counted, targets, 0)
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), known, reduction="none")
        return (nll * counted).sum(1) / counted.sum(1)

    def run_perturbed(self, noise: float, seed: int) -> None:
        """Runs the model on every row twice: all rows as they are, then all of them with noise.

        Gaussian noise is added to the pixels and to the embeddings that the language model is given (the text's alone where
        it is not given the image's), with ``noise`` times their own standard deviation. It is drawn for each sample by
        itself, so that it does not depend on the batch.
        """
        import torch

        rows, handle = len(self.samples), self._handle
        draw = [torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode())) for name in self.samples]

        def noisy(x: torch.Tensor, lengths: Sequence[int | None]) -> torch.Tensor:
            x = x.clone()
            for part, generator, length in zip(x[len(x) // 2 :].chunk(rows), draw, lengths, strict=True):
                part = part if length is None else part[:, :length]
                drawn = torch.randn(part.shape, generator=generator).to(part)
                part += noise * part.float().std().to(part.dtype) * drawn
            return x

        lengths = self.inputs["attention_mask"].sum(1).tolist()

        def on_decoder(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "inputs_embeds": noisy(kwargs["inputs_embeds"], lengths)}

        def on_embeddings(_: Any, args: Any, output: torch.Tensor) -> Any:
            return noisy(output, lengths) if output.shape[:2] == twice["input_ids"].shape else None

        twice = {name: torch.cat([x, x]) for name, x in self.inputs.items()}
        if "pixel_values" in twice:
            twice["pixel_values"] = noisy(twice["pixel_values"], [None] * rows)
        if handle.structure.family.embeds and handle.structure.vision is not None:
            hook = handle.model.get_submodule(handle.structure.decoder).register_forward_pre_hook(on_decoder, with_kwargs=True)
        else:
            hook = handle.model.get_input_embeddings().register_forward_hook(on_embeddings)
        try:
            with torch.inference_mode():
                handle.model(**twice, use_cache=False)
        finally:
            hook.remove()

    def tokens(self, site: Site, length: int, positions: str) -> torch.Tensor:
        """Which of a site's tokens count, bool ``[rows, length]``."""
        import torch

        if site.component == "language":
            if self._handle.is_encoder_decoder and ".decoder." in site.path:
                real = self.targets >= 0
                return real if positions in ("all", "answer", "text class") else torch.zeros_like(real)
            return self._positions[positions]
        for pattern, name in self._handle.structure.family.padded_by.items():
            if re.match(pattern, site.path):
                real = self.inputs[name].bool()
                before = real.new_ones(len(real), max(length - real.shape[1], 0))
                return torch.cat([before, real], dim=1)
        return torch.ones(len(self.samples), length, dtype=torch.bool, device=self._handle.device)
