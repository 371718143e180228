"""A loaded vision-language model, with the few things that lesion does with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image

from lesion.core.errors import DataError, LesionError
from lesion.core.identity import Identity
from lesion.core.sites import Sites
from lesion.data.samples import DEFAULT_PROMPT, Sample
from lesion.models.batch import Batch
from lesion.models.discovery import discover
from lesion.models.embeds_engine import EmbedsEngine
from lesion.models.engines import Engine
from lesion.models.handle import ModelHandle
from lesion.models.identity import identity_of
from lesion.models.inputs import Answer, Prompt
from lesion.models.tokens import token_classes
from lesion.models.whole_engine import WholeEngine

if TYPE_CHECKING:
    import torch


class VisionLanguageModel(ModelHandle):
    """A model, its processor and its sites.

    Args:
        model: In Hugging Face's own class; it is left as it was.
        processor: The model's own; a tokenizer for a model that reads text alone.
        name: For people.
        checkpoint: The folder that the weights were just loaded from; see :func:`lesion.models.identity.identity_of`.

    Raises:
        ModelError: No feed-forward site, or one of a make that is not known.
    """

    def __init__(self, model: Any, processor: Any, name: str, checkpoint: str | None = None) -> None:
        super().__init__(model, processor, name)
        self.sites: Sites = discover(model, self.structure)
        self._checkpoint = checkpoint

    @cached_property
    def engine(self) -> Engine:
        """How it is run from a prompt on."""
        return EmbedsEngine(self) if self.structure.family.embeds and not self.is_encoder_decoder else WholeEngine(self)

    def identity(self, untouched: bool = False) -> Identity:
        """Which model it is now: its weights are read anew each time, since they may have been edited.

        Args:
            untouched: The caller has just loaded it and knows that its weights are the checkpoint's, whose kept hash will do.
        """
        return identity_of(self.model, self.name, self._checkpoint if untouched else None)

    # -- inputs ------------------------------------------------------------------------------------------------------
    def prompt(self, sample: Sample | Image.Image, prompt: str | None = None) -> Prompt:
        """Processes one sample: the chat template where the processor has one, the plain prompt otherwise.

        Args:
            sample: An image, or a sample, whose own prompt goes before the other.
            prompt: What it is asked otherwise; default: :data:`lesion.data.samples.DEFAULT_PROMPT`.

        Raises:
            DataError: The model reads images, and the sample has none; or the prompt is longer than what the model reads, has
                the image's own token in it, or is refused by the processor.
        """
        if not isinstance(sample, Sample):
            sample = Sample("image", sample.convert("RGB"))
        text = sample.prompt or prompt or DEFAULT_PROMPT
        try:
            inputs = self._text_inputs(text) if self.structure.vision is None else self._image_inputs(sample, text)
        except LesionError:
            raise
        except Exception as error:  # processors and chat templates raise errors of many kinds
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise DataError(
                f"the processor of {self.name} refuses sample {sample.id}: {why}; give another prompt or image, or mend the "
                "model's processor"
            ) from None
        self._check_length(sample.id, inputs)
        kept = {k: v for k, v in inputs.items() if k != "labels"}  # PaliGemma's processor makes some of its own
        floats = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in kept.items()}
        return Prompt(sample.id, {k: v.to(self.device) for k, v in floats.items()})

    def _image_inputs(self, sample: Sample, text: str) -> Any:
        picture = sample.picture
        if self.image_token is not None and self.image_token in self.tokenizer(text, add_special_tokens=False).input_ids:
            token = self.tokenizer.decode([self.image_token])
            raise DataError(f"the prompt of sample {sample.id} has {token} in it, which lesion puts there itself; leave it out")
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": text}]
            text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return self.processor(text=[text], images=[picture], return_tensors="pt")

    def _check_length(self, sample: str, inputs: Any) -> None:
        """Whether the model has a position for every token of a prompt."""
        config = self.model.config
        parts = {"input_ids": config.get_text_config(), "qformer_input_ids": getattr(config, "qformer_config", None)}
        for name, of in parts.items():
            most = getattr(of, "max_position_embeddings", None)
            if most and name in inputs and inputs[name].shape[1] > most:
                raise DataError(
                    f"the prompt of sample {sample} has {inputs[name].shape[1]:,} tokens; expected at most {most:,}, which is "
                    f"what {self.name} reads: shorten it"
                )

    def _text_inputs(self, text: str) -> Any:
        if not self.tokenizer.chat_template:
            return self.tokenizer([text], return_tensors="pt")
        turns = [{"role": "user", "content": text}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        # The template writes the special tokens itself.
        return self.tokenizer([text], add_special_tokens=False, return_tensors="pt")

    def token_classes(self, prompt: Prompt) -> torch.Tensor:
        """The class of each token of a prompt (see :mod:`lesion.models.tokens`), int64 ``[tokens]``."""
        ids = prompt.inputs["input_ids"][prompt.inputs["attention_mask"].bool()]
        return token_classes(ids[None], ids[None] == (-1 if self.image_token is None else self.image_token))[0].cpu()

    def encode(self, text: str) -> Answer:
        """A given text as an answer: its tokens and the end token."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return Answer((*ids, *self.eos[:1]), text)

    # -- running -----------------------------------------------------------------------------------------------------
    def embed(self, prompts: Sequence[Prompt]) -> list[Any]:
        """Runs everything that masks of the language model leave as it is.

        Returns:
            A context for each prompt, for :meth:`generate` and :meth:`answer_log_probs`.
        """
        with self.prepared():
            return self.engine.embed(prompts)

    def generate(self, contexts: Sequence[Any], max_new_tokens: int) -> list[Answer]:
        """Greedy answers.

        Args:
            contexts: As :meth:`embed` returns them.
            max_new_tokens: An answer that has not come to its end by then is cut.
        """
        with self.prepared():
            return [self.answer(ids) for ids in self.engine.generate(contexts, max_new_tokens)]

    def answer_log_probs(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        """Teacher forcing: the log-probabilities before each token of the given answers.

        Returns:
            For each row, float32 ``[answer tokens, vocabulary]``: the distribution from which each token was taken.
        """
        with self.prepared():
            return self.engine.answer_log_probs(contexts, answers)

    # -- scoring -----------------------------------------------------------------------------------------------------
    def batches(self, prompts: Sequence[Prompt], answers: Sequence[Answer], size: int) -> Iterator[Batch]:
        """Batches for :func:`lesion.scoring.score.score`: of one sample where a site's rows are not the samples."""
        size = size if self.structure.family.rows_are_samples else 1
        for i in range(0, len(prompts), size):
            yield Batch(self, prompts[i : i + size], answers[i : i + size])
