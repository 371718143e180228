"""``python -m training.tiny_instructblip``: an InstructBLIP for scenes, without any seeded neuron."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    BlipImageProcessorPil,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from lesion.zoo.scenes import CATEGORIES, COLOURS, SIDE
from training import common
from training.quality import held_out_quality
from training.task import Conversation, Task
from training.tiny_clip import PatchHead

NAME, SEED, BATCH = "tiny-instructblip", 2, 48
VISION_STEPS, VISION_BATCH, VISION_RATE = 1500, 128, 1.5e-3
STEPS, RATE = 1500, 1.5e-3
QUERIES, QUESTIONS = 16, 2
POINTING_HEADS, ASKED, THINGS = 2, slice(0, 2), slice(2, 5)


def build() -> tuple[Any, Any]:
    """The untrained model and its processor."""
    tokenizer: Any = common.word_tokenizer(extra=["<image>"])
    ids = {
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = InstructBlipVisionConfig(
        hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
        patch_size=common.PATCH, initializer_range=0.02,
    )  # fmt: skip
    qformer = InstructBlipQFormerConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        cross_attention_frequency=1, encoder_hidden_size=128, max_position_embeddings=64, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, initializer_range=0.05, tie_word_embeddings=True, **ids,
    )  # fmt: skip
    config = InstructBlipConfig(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), text_config=text.to_dict(),
        num_query_tokens=QUERIES, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = InstructBlipForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    images = BlipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=common.MEAN, image_std=common.STD, do_convert_rgb=True
    )
    return model, InstructBlipProcessor(images, tokenizer, common.word_tokenizer(), num_query_tokens=QUERIES)


class InstructBlipRows:
    """Inputs as the processor makes them: image tokens before the start token, and the prompt for the Q-Former too."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.config, self.tokenizer = model.config, processor.tokenizer
        self.instruction_tokenizer = processor.qformer_tokenizer

    def __call__(self, conversations: list[Conversation]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        images = [self.config.image_token_id] * QUERIES
        asked, told = zip(*[turns[0] for turns in conversations], strict=True)
        rows = common.Rows.build(
            [
                [(images + self.tokenizer(p).input_ids, common.answer_ids(self.tokenizer, a))]
                for p, a in zip(asked, told, strict=True)
            ],
            self.tokenizer.pad_token_id,
        )
        instruction = common.Rows.build(
            [[(self.instruction_tokenizer(p).input_ids, [])] for p in asked], self.instruction_tokenizer.pad_token_id
        )
        inputs = {
            "input_ids": rows.ids, "attention_mask": rows.mask,
            "qformer_input_ids": instruction.ids, "qformer_attention_mask": instruction.mask,
        }  # fmt: skip
        return inputs, rows.labels


class Pointer:
    """A second loss: where the Q-Former looks, and what its queries mean. See ``training/tiny_llava.py`` for why.

    In the last layer, the cross-attention of the first queries (:data:`ASKED`) must go to the patches of the thing that
    a question names, and that of the next three (:data:`THINGS`) to the patches of the scene's first, second and third
    thing; to the class token if there is none. What those three give the language model must be nearest to the words of
    their thing's category and colour.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.table = model.get_input_embeddings()
        self.categories, self.colours = (
            processor.tokenizer.convert_tokens_to_ids(list(names)) for names in (CATEGORIES, COLOURS)
        )
        self.asked = processor.qformer_tokenizer.convert_tokens_to_ids(list(CATEGORIES))  # its ids are not the same
        self.attention = self.projected = torch.empty(0)
        # The Q-Former's output does not carry its cross-attentions.
        model.qformer.encoder.layer[-1].crossattention.attention.register_forward_hook(self._keep_attention)
        model.language_projection.register_forward_hook(self._keep_projected)

    def _keep_attention(self, module: Any, args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.attention = output[1]

    def _keep_projected(self, module: Any, args: Any, output: torch.Tensor) -> None:
        self.projected = output

    def __call__(self, inputs: dict[str, torch.Tensor], out: Any, labels: torch.Tensor) -> torch.Tensor:
        there = labels[..., 2].unsqueeze(-1) == torch.arange(1, 4, device=labels.device)
        return self._asked(inputs["qformer_input_ids"], labels) + self._looks(there) + self._names(there, labels)

    def _asked(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        row, _, category = (ids.unsqueeze(-1) == torch.tensor(self.asked, device=ids.device)).nonzero(as_tuple=True)
        if not len(row):  # a caption's prompt asks for no thing
            return torch.zeros((), device=ids.device)
        there = labels[row, :, 0] == category.unsqueeze(1) + 1
        return _looked(self.attention[row, :POINTING_HEADS, ASKED], there.unsqueeze(-1))

    def _looks(self, there: torch.Tensor) -> torch.Tensor:
        """``there`` ``[rows, patches, things]``."""
        return _looked(self.attention[:, :POINTING_HEADS, THINGS], there)

    def _names(self, there: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=labels.device)
        features = torch.nn.functional.normalize(self.projected[:, THINGS], dim=-1)
        for kind, words in enumerate((self.categories, self.colours)):
            named = torch.nn.functional.normalize(self.table.weight[words], dim=-1)
            target = (labels[..., kind].unsqueeze(-1) * there).amax(1).flatten() - 1  # -1 where there is no such thing
            scores = 10 * (features @ named.T).flatten(0, 1)
            total = total + torch.nn.functional.cross_entropy(scores, target, ignore_index=-1)
        return total


def _looked(attention: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Negative log of the attention that goes where it should.

    Args:
        attention: ``[rows, heads, queries, 1 + patches]``, the class token first.
        there: The patches that each query should look at, ``[rows, patches, queries or 1]``; none for the class token.
    """
    target = torch.cat([~there.any(1, keepdim=True), there], dim=1).float().transpose(1, 2).unsqueeze(1)
    return -((attention * target).sum(-1) + 1e-6).log().mean()


@contextlib.contextmanager
def once_per_picture(vision: Any) -> Iterator[None]:
    """Within: the frozen vision model sees each picture once, though it stands in a row for each of its questions."""
    forward, seen, output = vision.forward, torch.empty(0), None

    @torch.no_grad()
    def share(pixel_values: torch.Tensor, **options: Any) -> Any:
        nonlocal seen, output
        pictures, row = torch.unique_consecutive(pixel_values, dim=0, return_inverse=True)
        if output is None or not torch.equal(pictures, seen):
            seen, output = pictures, forward(pixel_values=pictures, **options)
        return type(output)(**{name: value[row] for name, value in output.items()})

    vision.forward = share
    try:
        yield
    finally:
        del vision.forward  # the instance's; the class's own is seen again


def train_vision(model: Any) -> float:
    """Teaches the vision model to name category and colour of every patch; then it is frozen, as in InstructBLIP."""
    head, stream = PatchHead(model.config.vision_config.hidden_size).to(common.device()), common.Scenes(SEED + 1)

    def loss(step: int) -> torch.Tensor:
        scenes = stream.take(VISION_BATCH)
        features = model.vision_model(pixel_values=common.pixels(scenes)).last_hidden_state[:, 1:]
        return head.loss(features, common.patch_labels(scenes))

    return common.train([*model.vision_model.parameters(), *head.parameters()], loss, VISION_STEPS, VISION_RATE)


def train_language(model: Any, processor: Any) -> float:
    """Teaches captions and answers to everything behind the vision model."""
    model.vision_model.requires_grad_(False)
    model.set_attn_implementation("eager")  # the one that gives its attentions
    teach = Pointer(model, processor)
    task = Task(model, InstructBlipRows(model, processor), SEED, BATCH, QUESTIONS, False, teach, teach_captions=True)
    with once_per_picture(model.vision_model):
        last = common.train(model.parameters(), lambda step: task.loss(), STEPS, RATE)
    model.set_attn_implementation("sdpa")
    return last


def main() -> None:
    torch.manual_seed(SEED)
    model, processor = build()
    model = model.to(common.device()).train()
    vision = common.stage(f"{NAME}-vision", model, lambda: train_vision(model))
    language = common.stage(f"{NAME}-language", model, lambda: train_language(model, processor))
    model.eval()
    facts = {
        "seed": SEED,
        "steps": f"{VISION_STEPS} for the vision model, {STEPS} for the rest",
        "batch": f"{BATCH} scenes, a caption and {QUESTIONS} questions each", "parameters": model.num_parameters(),
        **common.summary(vision, language), **held_out_quality(model, processor),
    }  # fmt: skip
    common.publish(NAME, model, processor, CARD, facts)


CARD = """
# tiny-instructblip

An `InstructBlipForConditionalGeneration` (vision transformer, Q-Former that reads the instruction, Llama language model)
trained on this package's drawn scenes: it describes them and answers questions about them. The vision model was trained
first, to name category and colour of every patch, and then frozen.

**Nothing was seeded.** It stands for a model without a critical handful: an honest tool must say that it found none. It
is not evidence about real models.
"""


if __name__ == "__main__":
    main()
