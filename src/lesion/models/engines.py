"""Engines: two ways to run a model from a prompt on, which give the same answers.

:class:`lesion.models.whole_engine.WholeEngine` runs the model as its own ``generate`` does, on every prompt anew; it is right
for every family. :class:`lesion.models.embeds_engine.EmbedsEngine` is for families whose language model knows nothing of the
image but the ``inputs_embeds`` that it is called with: these are computed once a sample, and everything starts from there, so
that an experiment that masks the language model alone runs the vision part once an image, however many masks are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from lesion.models.decoding import Reply, chosen
from lesion.models.handle import ModelHandle
from lesion.models.inputs import Answer, Prompt
from lesion.models.layout import TokenLayout
from lesion.models.opened import Opened
from lesion.models.trunk import DecoderLayers, Intact, Part

if TYPE_CHECKING:
    import torch


See = Callable[[int, "torch.Tensor"], Any]
"""Given a row's number and a distribution a token, ``[tokens, vocabulary]``."""


@dataclass(frozen=True)
class Asked:
    """What a model is asked in the rows of a batch.

    Attributes:
        contexts: One a row.
        references: Answers whose likelihood is wanted.
        drafts: For each row, an answer that its own may turn out to be; it changes nothing but the time.
        max_new_tokens: Longest answer.
        masks: For each row, a number that all rows masked alike have in common.
    """

    contexts: Sequence[Any]
    references: Sequence[Answer]
    drafts: Sequence[tuple[int, ...]]
    max_new_tokens: int
    masks: Sequence[int]


class Engine(Protocol):
    """Contexts are what :meth:`embed` returns, one a prompt; only the same engine can read them."""

    one_pass: bool
    """Whether :meth:`answer_log_probs` runs prompt and answer in one pass, not token by token."""
    layers: DecoderLayers
    """Where :meth:`reply` can start half-way, and rows can be masked each in its own way; none if nowhere."""

    def embed(self, prompts: Sequence[Prompt]) -> list[Any]:
        """Runs what can be run once for all masks of the language model."""
        ...

    def generate(self, contexts: Sequence[Any], max_new_tokens: int) -> list[list[int]]:
        """Greedy answers: token ids, perhaps with padding after the end token."""
        ...

    def answer_log_probs(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        """For each row, float32 ``[answer tokens, vocabulary]``: the distribution from which each token was taken."""
        ...

    def open(self, asked: Asked, layout: TokenLayout, parts: Sequence[Part], see: See) -> list[Opened]:
        """What the model makes of the reference answers, part by part; arguments as those of :meth:`reply`."""
        ...

    def reply(self, asked: Asked, layout: TokenLayout, parts: Sequence[Part], see: See) -> list[Reply]:
        """What the model makes of the reference answers, and its own greedy ones.

        Args:
            asked: A row each.
            layout: Expects these rows; it is told what each pass is over.
            parts: Which rows read prompts and references together; all of them then write together.
            see: Called with a row's number and its log-probabilities before each token of the reference, float32
                ``[tokens, vocabulary]``; what it returns is kept, and not these.
        """
        ...

    def intact(self, contexts: Sequence[Any], references: Sequence[Answer]) -> list[Intact]:
        """What the model, which is not masked, computes on prompts and reference answers."""
        ...

    def judge(self, contexts: Sequence[Any], intact: Sequence[Intact], references: Sequence[Answer], answers: Sequence[Answer]
    ) -> list[list[float]]:  # fmt: skip
        """Log-probabilities that the model, which is not masked, gives the tokens of other answers.

        Args:
            contexts: One a row.
            intact: What it computed on them and the references.
            references: Those.
            answers: The others.
        """
        ...


def open_plainly(engine: Engine, asked: Asked, layout: TokenLayout, see: See) -> list[Opened]:
    """:meth:`Engine.open` for any engine."""
    return [Opened([see(row, known) for row, known in enumerate(_log_probs(engine, asked, layout, asked.references))])]


def reply_plainly(engine: Engine, handle: ModelHandle, asked: Asked, layout: TokenLayout, see: See) -> list[Reply]:
    """:meth:`Engine.reply` for any engine: generates, then goes through references and answers in passes of their own."""
    rows = range(len(asked.contexts))
    layout.read(rows, [0] * len(rows))
    answers = [handle.answer(ids) for ids in engine.generate(asked.contexts, asked.max_new_tokens)]
    of_references, of_answers = (_log_probs(engine, asked, layout, of) for of in (asked.references, answers))
    every = zip(rows, of_references, answers, of_answers, strict=True)
    return [Reply(see(row, known), a.ids, tuple(chosen(own, a.ids)), 0, len(a.ids)) for row, known, a, own in every]


def _log_probs(engine: Engine, asked: Asked, layout: TokenLayout, answers: Sequence[Answer]) -> list[torch.Tensor]:
    layout.read(range(len(answers)), [len(a.ids) if engine.one_pass else 0 for a in answers])
    return engine.answer_log_probs(asked.contexts, answers)


def plain_generation(handle: ModelHandle, max_new_tokens: int) -> Any:
    """Greedy decoding, whatever the checkpoint's own configuration asks for: beams, penalties, forced or suppressed tokens."""
    own = handle.model.generation_config
    return _plain_class()(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, pad_token_id=handle.pad, eos_token_id=handle.eos or None,
        bos_token_id=handle.tokenizer.bos_token_id, decoder_start_token_id=getattr(own, "decoder_start_token_id", None),
        # A model that babbles may say its image token, which in the input stands for an image that is not there.
        suppress_tokens=None if handle.image_token is None else [handle.image_token],
    )  # fmt: skip


@cache
def _plain_class() -> Any:
    from transformers import GenerationConfig

    class Plain(GenerationConfig):
        """Takes nothing from a model's own configuration, with which ``generate`` fills whatever is None."""

        def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
            # Entries of its own kind are allowed from the model's configuration alone; other calls bring the defaults.
            # That of max_length would be complained about beside max_new_tokens.
            values.pop("max_length", None)
            return {} if allow_custom_entries else super().update(defaults_only, **values)

    return Plain
