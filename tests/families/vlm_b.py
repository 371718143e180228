"""Qwen-VL, Idefics3 and SmolVLM, Llama 3.2 Vision (mllama), Florence-2: images of every size, tiles, cross-attention.

The processors of Qwen-VL and SmolVLM take a video processor too, which needs torchvision, and SmolVLM's spells numbers out
with num2words, for videos as well. Their subclasses here do without both; importing this module registers them, so that
``AutoProcessor`` finds them in a folder where they were saved.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers import (
    AutoProcessor,
    BartConfig,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from tests.families import Built
from training.common import BOS, EOS, PAD, UNK, word_tokenizer

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
MLLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


class _Images:
    """What a processor's class is asked for is read from its constructor: this one names no video processor."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # pyright: ignore[reportCallIssue]


class Qwen2VLImagesProcessor(_Images, Qwen2VLProcessor):
    """Without videos."""


class Qwen25VLImagesProcessor(_Images, Qwen2_5_VLProcessor):
    """Without videos."""


class Qwen3VLImagesProcessor(_Images, Qwen3VLProcessor):
    """Without videos."""


class SmolVLMImagesProcessor(SmolVLMProcessor):
    """Without videos; a chat template asks the video processor for two numbers even then."""

    video_processor = SimpleNamespace(num_frames=None, fps=None)

    def __init__(
        self, image_processor: Any, tokenizer: Any, image_seq_len: int = 169, chat_template: str | None = None, **_: Any
    ) -> None:
        with mock.patch.object(processing_smolvlm, "num2words", str):
            super().__init__(image_processor, tokenizer, None, image_seq_len=image_seq_len, chat_template=chat_template)


for _config, _processor in (
    (Qwen2VLConfig, Qwen2VLImagesProcessor),
    (Qwen2_5_VLConfig, Qwen25VLImagesProcessor),
    (Qwen3VLConfig, Qwen3VLImagesProcessor),
    (SmolVLMConfig, SmolVLMImagesProcessor),
):
    AutoProcessor.register(_config, _processor, exist_ok=True)


def _qwen_parts(processor_class: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A processor, the token numbers in the configuration, and what every text configuration says.

    Patches of 8 pixels, four of which make a token: every side is a multiple of 16, an image has 4 to 12 tokens.
    """
    torch.manual_seed(0)
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer: Any = word_tokenizer(extra=special, start=False)
    images = Qwen2VLImageProcessorPil(
        patch_size=8, temporal_patch_size=2, merge_size=2, size={"shortest_edge": 4 * 16**2, "longest_edge": 12 * 16**2}
    )
    names = ["vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"]
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(special[2:]), strict=True))
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 256, "initializer_range": 0.3, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
    }  # fmt: skip
    return processor_class(images, tokenizer, chat_template=QWEN_TEMPLATE), ids, text


def qwen2_vl() -> Built:
    """The vision encoder ends in the merger; its configuration says ``embed_dim`` for its own width."""
    processor, ids, text = _qwen_parts(Qwen2VLImagesProcessor)
    vision = {
        "depth": 3, "embed_dim": 16, "hidden_size": 24, "mlp_ratio": 3, "num_heads": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.3,
    }  # fmt: skip
    config = Qwen2VLConfig(**ids, vision_config=vision, text_config={**text, "intermediate_size": 40, "num_hidden_layers": 2})
    counts = {
        ("vision", "hidden"): 3 * 3 * 16,
        ("vision", "down"): 3 * 16,
        ("connector", "hidden"): 4 * 16,
        ("connector", "down"): 24,
        ("language", "gate"): 2 * 40,
        ("language", "up"): 2 * 40,
        ("language", "hidden"): 2 * 40,
        ("language", "down"): 2 * 24,
    }
    return Built(Qwen2VLForConditionalGeneration(config).eval(), processor, counts)


def qwen2_5_vl() -> Built:
    """Gated networks in the vision encoder, whose first and third layers attend within windows of two by two tokens."""
    processor, ids, text = _qwen_parts(Qwen25VLImagesProcessor)
    vision = {
        "depth": 3, "hidden_size": 16, "out_hidden_size": 24, "intermediate_size": 20, "num_heads": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32, "fullatt_block_indexes": [1],
        "initializer_range": 0.3,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        **ids, vision_config=vision, text_config={**text, "intermediate_size": 36, "num_hidden_layers": 2}
    )
    counts = {
        ("vision", "gate"): 3 * 20,
        ("vision", "up"): 3 * 20,
        ("vision", "hidden"): 3 * 20,
        ("vision", "down"): 3 * 16,
        ("connector", "hidden"): 4 * 16,
        ("connector", "down"): 24,
        ("language", "gate"): 2 * 36,
        ("language", "up"): 2 * 36,
        ("language", "hidden"): 2 * 36,
        ("language", "down"): 2 * 24,
    }
    return Built(Qwen2_5_VLForConditionalGeneration(config).eval(), processor, counts)


def _qwen3_vision() -> dict[str, Any]:
    """What the first and the second layer put out goes through mergers of its own into the language model's first layers."""
    return {
        "depth": 3, "hidden_size": 16, "out_hidden_size": 24, "intermediate_size": 28, "num_heads": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.3,
    }  # fmt: skip


def qwen3_vl() -> Built:
    """The connector is the merger and two mergers for the language model's first two layers (deepstack)."""
    processor, ids, text = _qwen_parts(Qwen3VLImagesProcessor)
    config = Qwen3VLConfig(
        **ids,
        vision_config=_qwen3_vision(),
        text_config={**text, "head_dim": 12, "intermediate_size": 44, "num_hidden_layers": 3},
    )
    counts = {
        ("vision", "hidden"): 3 * 28,
        ("vision", "down"): 3 * 16,
        ("connector", "hidden"): (1 + 2) * 4 * 16,
        ("connector", "down"): (1 + 2) * 24,
        ("language", "gate"): 3 * 44,
        ("language", "up"): 3 * 44,
        ("language", "hidden"): 3 * 44,
        ("language", "down"): 3 * 24,
    }
    return Built(Qwen3VLForConditionalGeneration(config).eval(), processor, counts)


def qwen3_vl_moe() -> Built:
    """Four experts in each layer, of which a token sees two; an expert's neurons are its own.

    Rows of the experts' weights have a multiple of 16 bytes, which ``grouped_mm`` asks for.
    """
    processor, ids, text = _qwen_parts(Qwen3VLImagesProcessor)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "decoder_sparse_step": 1}
    config = Qwen3VLMoeConfig(
        **ids,
        vision_config=_qwen3_vision(),
        text_config={**text, **experts, "head_dim": 12, "intermediate_size": 44, "num_hidden_layers": 3},
    )
    counts = {
        ("vision", "hidden"): 3 * 28,
        ("vision", "down"): 3 * 16,
        ("connector", "hidden"): (1 + 2) * 4 * 16,
        ("connector", "down"): (1 + 2) * 24,
        ("language", "gate"): 3 * 4 * 8,
        ("language", "up"): 3 * 4 * 8,
        ("language", "hidden"): 3 * 4 * 8,
        ("language", "down"): 3 * 4 * 24,
    }
    return Built(Qwen3VLMoeForConditionalGeneration(config).eval(), processor, counts)


def _idefics(config_class: Any, model_class: Any, tokenizer: Any, vision: dict[str, Any], text: dict[str, Any]) -> Any:
    """Tiles of 24 by 24 pixels, 16 patches, four of which make a token; ``vision`` and ``text`` are the sizes."""
    config = config_class(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        vision_config={**vision, "num_attention_heads": 2, "image_size": 24, "patch_size": 6, "initializer_range": 0.3},
        text_config=LlamaConfig(
            **text, vocab_size=len(tokenizer), num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
            initializer_range=0.3, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.convert_tokens_to_ids("<end_of_utterance>"),
        ),
    )  # fmt: skip
    return model_class(config).eval()


def _idefics_tokenizer() -> Any:
    """Images are split into at most two by two tiles, each named by its row and column, and the whole comes last."""
    torch.manual_seed(0)
    tiles = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
    return word_tokenizer(extra=["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles])


def idefics3() -> Built:
    """The connector is one linear layer over four neighbouring patches."""
    tokenizer = _idefics_tokenizer()
    model = _idefics(
        Idefics3Config, Idefics3ForConditionalGeneration, tokenizer,
        vision={"hidden_size": 16, "intermediate_size": 26, "num_hidden_layers": 3},
        text={"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2},
    )  # fmt: skip
    images = Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
    counts = {
        ("vision", "hidden"): 3 * 26,
        ("vision", "down"): 3 * 16,
        ("connector", "down"): 24,
        ("language", "gate"): 2 * 36,
        ("language", "up"): 2 * 36,
        ("language", "hidden"): 2 * 36,
        ("language", "down"): 2 * 24,
    }
    return Built(model, processor, counts)


def smolvlm() -> Built:
    """Idefics3's architecture in classes of its own."""
    tokenizer = _idefics_tokenizer()
    model = _idefics(
        SmolVLMConfig, SmolVLMForConditionalGeneration, tokenizer,
        vision={"hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2},
        text={"hidden_size": 16, "intermediate_size": 30, "num_hidden_layers": 3},
    )  # fmt: skip
    images = SmolVLMImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
    processor = SmolVLMImagesProcessor(images, tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
    counts = {
        ("vision", "hidden"): 2 * 34,
        ("vision", "down"): 2 * 24,
        ("connector", "down"): 16,
        ("language", "gate"): 3 * 30,
        ("language", "up"): 3 * 30,
        ("language", "hidden"): 3 * 30,
        ("language", "down"): 3 * 16,
    }
    return Built(model, processor, counts)


def mllama() -> Built:
    """The second of three language layers attends to the image instead of the text; its network counts like the others'.

    Two vision encoders stand one behind the other, with three layers and with one. As in the published checkpoints the
    image token has an embedding but no logit: its number is the vocabulary's size.
    """
    torch.manual_seed(0)
    tokenizer: Any = word_tokenizer(extra=["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], start=False)
    vocabulary = len(tokenizer)
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    config = MllamaConfig(
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
        vision_config={
            "hidden_size": 16, "intermediate_size": 28, "num_hidden_layers": 3, "num_global_layers": 1, "attention_heads": 2,
            "intermediate_layers_indices": [0, 2], "vision_output_dim": 3 * 16, "image_size": 24, "patch_size": 8,
            "max_num_tiles": 4, "initializer_range": 0.3,
        },
        text_config={
            "vocab_size": vocabulary, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
            "cross_attention_layers": [1], "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
            "initializer_range": 0.3, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|eot_id|>"),
        },
    )  # fmt: skip
    model: Any = MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("gate", "gate_attn", "gate_ffn")):  # a new model's are zero: the image would change nothing
            nn.init.constant_(parameter, 1.0)
    images = MllamaImageProcessorPil(size={"height": 24, "width": 24}, max_image_tiles=4)
    processor = MllamaProcessor(images, tokenizer, chat_template=MLLAMA_TEMPLATE)
    counts = {
        ("vision", "hidden"): (3 + 1) * 28,
        ("vision", "down"): (3 + 1) * 16,
        ("connector", "down"): 24,
        ("language", "gate"): 3 * 40,
        ("language", "up"): 3 * 40,
        ("language", "hidden"): 3 * 40,
        ("language", "down"): 3 * 24,
    }
    return Built(model.eval(), processor, counts)


def florence2() -> Built:
    """Two stages of different widths, two networks a block (spatial, channel), and an encoder-decoder language model.

    It has no chat template: a prompt is a task's name such as ``<CAPTION>``, or plain text.
    """
    torch.manual_seed(0)
    words: Any = word_tokenizer(extra=["<image>"], start=False)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer, pad_token=PAD, unk_token=UNK, bos_token=BOS, eos_token=EOS,
        image_token="<image>", padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    vision = {
        "depths": [1, 2], "embed_dim": [8, 16], "mlp_ratio": 3.0, "num_heads": [2, 2], "num_groups": [2, 2], "window_size": 3,
        "patch_size": [7, 3], "patch_stride": [4, 4], "patch_padding": [3, 1], "patch_prenorm": [False, True],
        "projection_dim": 24, "initializer_range": 0.3,
    }  # fmt: skip
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=24, encoder_layers=3, decoder_layers=2, encoder_ffn_dim=36, decoder_ffn_dim=44,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=128, init_std=0.3,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = Florence2Config(image_token_id=tokenizer.convert_tokens_to_ids("<image>"), vision_config=vision, text_config=text)
    size = {"height": 48, "width": 48}
    images = CLIPImageProcessorPil(size=size, do_center_crop=False, image_seq_length=3 * 3 + 1)
    counts = {
        ("vision", "hidden"): 1 * 2 * 3 * 8 + 2 * 2 * 3 * 16,
        ("vision", "down"): 1 * 2 * 8 + 2 * 2 * 16,
        ("connector", "down"): 24,
        ("language", "hidden"): 3 * 36 + 2 * 44,
        ("language", "down"): (3 + 2) * 24,
    }
    return Built(Florence2ForConditionalGeneration(config).eval(), Florence2Processor(images, tokenizer), counts)


BUILDERS: dict[str, Callable[[], Built]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "mllama": mllama,
    "florence2": florence2,
}
