"""A loaded vision-language model, with the few things that lesion does with it.

The language model sees an image only through the ``inputs_embeds`` that its decoder is called with. :meth:`embed`
captures them, and everything after it (answers, teacher forcing) starts from there: an experiment that masks the
language model alone runs the vision tower once an image, however many masks are tried.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.errors import ModelError
from lesion.masking import CLASSES
from lesion.sites import Site, Sites, discover

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lesion.data import Sample
    from lesion.models.families import Family

_SMALL = 2**28
"""Models of at most so many weights are fingerprinted whole; of larger ones, a part of every tensor."""


@dataclass(frozen=True)
class Prompt:
    """One sample's processed inputs, unpadded, one row: what the processor returns for it."""

    sample: str
    inputs: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Answer:
    """Generated or given tokens, the end token included where the model came to an end."""

    ids: tuple[int, ...]
    text: str


class _Captured(Exception):  # noqa: N818 (not an error: it carries what the decoder was called with)
    def __init__(self, embeds: torch.Tensor) -> None:
        super().__init__()
        self.embeds = embeds


class VisionLanguageModel:
    """A model, its processor and its sites.

    Args:
        model: In Hugging Face's own class; it is frozen and put in evaluation mode.
        processor: The model's own.
        family: What the module tree does not say.
        name: For people.

    Raises:
        ModelError: No feed-forward site.
    """

    def __init__(self, model: Any, processor: Any, family: Family, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor, self.family, self.name = processor, family, name
        self.sites: Sites = discover(model, family)
        self.tokenizer: Any = processor.tokenizer
        self.decoder: nn.Module = model.get_submodule(family.decoder)
        self._generator: Any = model.get_submodule(family.generator)
        self.eos = _as_list(model.generation_config.eos_token_id) or _as_list(self.tokenizer.eos_token_id)
        self.pad: int = next(
            i for i in (self.tokenizer.pad_token_id, model.generation_config.pad_token_id, *self.eos, 0) if i is not None
        )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, 16 hexadecimal digits; the same weights have the same one whatever their file."""
        import torch

        whole = sum(p.numel() for p in self.model.parameters()) <= _SMALL
        text = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            flat = tensor.detach().flatten()
            part = flat if whole else flat[:: max(1, flat.numel() // 1024)]
            text.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            text.update(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return text.hexdigest()[:16]

    # -- inputs ------------------------------------------------------------------------------------------------------
    def prompt(self, sample: Sample, prompt: str) -> Prompt:
        """Processes one sample: the chat template where the processor has one, the plain prompt otherwise."""
        text = prompt
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self.processor(images=sample.image, text=text, return_tensors="pt")
        floats = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        return Prompt(sample.id, {k: v.to(self.device) for k, v in floats.items()})

    def token_classes(self, prompt: Prompt) -> torch.Tensor:
        """The class of each token of a prompt (see :data:`lesion.masking.CLASSES`), int64 ``[tokens]``."""
        ids = prompt.inputs["input_ids"][prompt.inputs["attention_mask"].bool()]
        return _classes(ids[None], ids[None] == self.model.config.image_token_id)[0].cpu()

    def encode(self, text: str) -> Answer:
        """A given text as an answer: its tokens and the end token."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return Answer((*ids, *self.eos[:1]), text)

    # -- running -----------------------------------------------------------------------------------------------------
    def embed(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Runs everything before the language model.

        Returns:
            For each prompt, its tokens' embeddings with the image's in their places, ``[tokens, width]``.
        """
        import torch

        def capture(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            raise _Captured(kwargs["inputs_embeds"])

        inputs = collate([p.inputs for p in prompts], self.pad)
        handle = self.decoder.register_forward_pre_hook(capture, with_kwargs=True)
        try:
            with torch.inference_mode():
                self.model(**inputs)
        except _Captured as captured:
            kept = inputs["attention_mask"].bool()
            return [row[keep].clone() for row, keep in zip(captured.embeds, kept, strict=True)]
        finally:
            handle.remove()
        raise ModelError(f"{self.name}: {self.family.decoder} was never called; is family {self.family.name} right?")

    def generate(self, embeds: Sequence[torch.Tensor], max_new_tokens: int) -> list[Answer]:
        """Greedy answers.

        Args:
            embeds: As :meth:`embed` returns them.
            max_new_tokens: An answer that has not come to its end by then is cut.
        """
        import torch
        from transformers import GenerationConfig

        # Everything that a checkpoint's own generation config could change (beams, sampling, penalties) is set.
        plain = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, repetition_penalty=1.0, length_penalty=1.0,
            no_repeat_ngram_size=0, min_length=0, temperature=1.0, top_p=1.0, top_k=50, pad_token_id=self.pad,
            eos_token_id=self.eos or None, bos_token_id=self.tokenizer.bos_token_id,
            # A model that babbles may say its image token, which in the input stands for an image that is not there.
            suppress_tokens=[self.model.config.image_token_id],
        )  # fmt: skip
        joined, mask = _left_pad(embeds)
        with torch.inference_mode():
            output = self._generator.generate(inputs_embeds=joined, attention_mask=mask, generation_config=plain)
        return [self._answer(row.tolist()) for row in output]

    def _answer(self, ids: list[int]) -> Answer:
        for i, token in enumerate(ids):
            if token in self.eos:
                ids = ids[: i + 1]
                break
        return Answer(tuple(ids), self.tokenizer.decode(ids, skip_special_tokens=True).strip())

    def answer_log_probs(self, embeds: Sequence[torch.Tensor], answers: Sequence[Answer]) -> list[torch.Tensor]:
        """Teacher forcing: the log-probabilities before each token of the given answers.

        Returns:
            For each row, float32 ``[answer tokens, vocabulary]``: the distribution from which each token was taken.
        """
        import torch

        table = self.model.get_input_embeddings()
        rows = []
        for prompt, answer in zip(embeds, answers, strict=True):
            given = table(torch.tensor(answer.ids, device=self.device))
            rows.append(torch.cat([prompt, given.to(prompt)]))
        joined, mask = _left_pad(rows)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        keep = max(len(a.ids) for a in answers) + 1
        with torch.inference_mode():
            logits = self._generator(
                inputs_embeds=joined, attention_mask=mask, position_ids=positions, logits_to_keep=keep, use_cache=False
            ).logits
        # The last position predicts what comes after the answer.
        return [row[keep - 1 - len(a.ids) : keep - 1].float().log_softmax(-1) for row, a in zip(logits, answers, strict=True)]

    # -- scoring -----------------------------------------------------------------------------------------------------
    def batches(self, prompts: Sequence[Prompt], answers: Sequence[Answer], size: int) -> Iterator[Batch]:
        """Batches for :func:`lesion.scoring.score`."""
        for i in range(0, len(prompts), size):
            yield Batch(self, prompts[i : i + size], answers[i : i + size])


class Batch:
    """Prompts and answers for the whole model, right-padded; a :class:`lesion.scoring.ScoringBatch`."""

    def __init__(self, vlm: VisionLanguageModel, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> None:
        import torch

        self._vlm, self.samples = vlm, [p.sample for p in prompts]
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            given = torch.tensor([answer.ids], device=vlm.device)
            inputs = dict(prompt.inputs)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], given], dim=1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(given)], dim=1)
            rows.append(inputs)
        self.inputs = collate(rows, vlm.pad)
        ids = self.inputs["input_ids"]
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        starts = torch.tensor([p.inputs["input_ids"].shape[1] for p in prompts], device=ids.device)[:, None]
        real = self.inputs["attention_mask"].bool()
        self.answer = real & (places >= starts)
        image = real & (ids == vlm.model.config.image_token_id)
        self._positions = {
            "all": real, "image": image, "prompt": real & ~self.answer & ~image, "answer": self.answer,
            "first": real & (places == 0),
            **{f"{name} class": real & (_classes(ids, image) == i) for i, name in enumerate(CLASSES)},
        }  # fmt: skip

    def losses(self) -> torch.Tensor:
        """Mean negative log-likelihood of each row's answer, float32 ``[rows]``."""
        import torch

        logits = self._vlm.model(**self.inputs, use_cache=False).logits
        targets, counted = self.inputs["input_ids"][:, 1:], self.answer[:, 1:]
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
        return (nll * counted).sum(1) / counted.sum(1)

    def run_perturbed(self, noise: float, seed: int) -> None:
        """Runs the model on every row twice: all rows as they are, then all of them with noise.

        Gaussian noise is added to the pixels and to the embeddings that the language model is given, with ``noise``
        times their own standard deviation. It is drawn for each sample by itself, so that it does not depend on the batch.
        """
        import torch

        rows = len(self.answer)
        draw = [torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode())) for name in self.samples]

        def noisy(x: torch.Tensor, lengths: Sequence[int | None]) -> torch.Tensor:
            x = x.clone()
            for row, generator, length in zip(x[rows:], draw, lengths, strict=True):
                part = row[:length]
                drawn = torch.randn(part.shape, generator=generator).to(part)
                part += noise * part.float().std().to(part.dtype) * drawn
            return x

        def on_embeds(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {
                **kwargs,
                "inputs_embeds": noisy(kwargs["inputs_embeds"], self.inputs["attention_mask"].sum(1).tolist()),
            }

        twice = {name: torch.cat([x, x]) for name, x in self.inputs.items()}
        twice["pixel_values"] = noisy(twice["pixel_values"], [None] * rows)
        handle = self._vlm.decoder.register_forward_pre_hook(on_embeds, with_kwargs=True)
        try:
            with torch.inference_mode():
                self._vlm.model(**twice, use_cache=False)
        finally:
            handle.remove()

    def tokens(self, site: Site, length: int, positions: str) -> torch.Tensor:
        import re

        import torch

        if site.component == "language":
            return self._positions[positions]
        for pattern, name in self._vlm.family.padded_by.items():
            if re.match(pattern, site.path):
                return self.inputs[name].bool()
        return torch.ones(len(self.answer), length, dtype=torch.bool, device=self._vlm.device)


def collate(rows: Sequence[Mapping[str, torch.Tensor]], pad: int) -> dict[str, torch.Tensor]:
    """One-row inputs as one batch: token ids and attention masks padded on the right, everything else joined."""
    import torch

    joined: dict[str, torch.Tensor] = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if name.endswith(("input_ids", "attention_mask")):
            longest = max(p.shape[1] for p in parts)
            fill = pad if name.endswith("input_ids") else 0
            parts = [torch.nn.functional.pad(p, (0, longest - p.shape[1]), value=fill) for p in parts]
        joined[name] = torch.cat(parts)
    return joined


def _left_pad(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """``[rows, longest, width]`` with the rows at the right, and their attention mask ``[rows, longest]``."""
    import torch

    longest = max(len(r) for r in rows)
    joined = torch.stack([torch.nn.functional.pad(r, (0, 0, longest - len(r), 0)) for r in rows])
    lengths = torch.tensor([len(r) for r in rows], device=joined.device)
    mask = torch.arange(longest, device=joined.device) >= (longest - lengths)[:, None]
    return joined, mask.long()


def _classes(ids: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The class of each token, int64 ``[rows, tokens]``, given which are the image's."""
    import torch

    classes = torch.where(image, CLASSES.index("image"), CLASSES.index("text"))
    classes[:, 0] = CLASSES.index("first")
    return classes


def _as_list(ids: Any) -> list[int]:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple) else [ids]
