"""``python -m training.tiny_instructblip``: an InstructBLIP for scenes, without any seeded neuron."""

from __future__ import annotations

import time
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

from lesion.zoo.scenes import CATEGORIES, SIDE
from training import common
from training.quality import held_out_quality
from training.task import Conversation, Task
from training.tiny_clip import PatchHead

NAME, SEED, BATCH = "tiny-instructblip", 2, 48
VISION_STEPS, VISION_BATCH, VISION_RATE = 700, 128, 1.5e-3
STEPS, RATE = 2200, 1.5e-3
QUERIES, QUESTIONS = 16, 4
POINTING_HEADS, POINTING_QUERIES = 2, 2


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
    """A second loss of the questions: where the Q-Former looks.

    In its last layer, the cross-attention of the first queries must go to the patches of the thing that the question
    names, or to the class token if there is none. See ``training/tiny_llava.py`` for why.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.categories = tokenizer.convert_tokens_to_ids(list(CATEGORIES))
        self.attention = torch.empty(0)
        # The Q-Former's output does not carry its cross-attentions.
        model.qformer.encoder.layer[-1].crossattention.attention.register_forward_hook(self._keep)

    def _keep(self, module: Any, args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.attention = output[1]

    def __call__(self, inputs: dict[str, torch.Tensor], out: Any, labels: torch.Tensor) -> torch.Tensor:
        ids = inputs["qformer_input_ids"]
        row, _, category = (ids.unsqueeze(-1) == torch.tensor(self.categories, device=ids.device)).nonzero(as_tuple=True)
        attention = self.attention[row, :POINTING_HEADS, :POINTING_QUERIES]
        target = torch.zeros(len(row), attention.shape[-1], device=ids.device)
        target[:, 1:] = (labels[row, :, 0] == category.unsqueeze(1) + 1).float()
        target[:, 0] = (target.sum(1) == 0).float()
        looked = (attention * target[:, None, None]).sum(-1)
        return -(looked + 1e-6).log().mean()


def train_vision(model: Any) -> float:
    """Teaches the vision model to name category and colour of every patch; then it is frozen, as in InstructBLIP."""
    head, stream = PatchHead(model.config.vision_config.hidden_size).to(common.device()), common.Scenes(SEED + 1)

    def loss(step: int) -> torch.Tensor:
        scenes = stream.take(VISION_BATCH)
        features = model.vision_model(pixel_values=common.pixels(scenes)).last_hidden_state[:, 1:]
        return head.loss(features, common.patch_labels(scenes))

    last = common.train([*model.vision_model.parameters(), *head.parameters()], loss, VISION_STEPS, VISION_RATE)
    model.vision_model.requires_grad_(False)
    return last


def main() -> None:
    torch.manual_seed(SEED)
    start = time.time()
    model, processor = build()
    model = model.to(common.device()).train()
    vision_loss = train_vision(model)
    model.set_attn_implementation("eager")  # the one that gives its attentions
    teach = Pointer(model, processor.qformer_tokenizer)
    task = Task(model, InstructBlipRows(model, processor), SEED, BATCH, QUESTIONS, together=False, teach=teach)
    last = common.train(model.parameters(), lambda step: task.loss(), STEPS, RATE)
    model.set_attn_implementation("sdpa")
    model.eval()
    folder = common.ZOO / NAME
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    facts = {
        "command": "python -m training.tiny_instructblip", "seed": SEED,
        "steps": f"{VISION_STEPS} for the vision model, {STEPS} for the rest",
        "batch": f"{BATCH} scenes, a caption and {QUESTIONS} questions each", "parameters": model.num_parameters(),
        "final_loss": {"vision": round(vision_loss, 4), "language": round(last, 4)},
        "minutes": round((time.time() - start) / 60, 1), **held_out_quality(model, processor),
    }  # fmt: skip
    print(facts)
    common.write_card(NAME, CARD, facts)


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
