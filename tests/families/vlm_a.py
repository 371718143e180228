"""Vision-language models that lay image tokens into the prompt of a separate language model, and the two BLIP-2.

Sizes: a vision part of width 16 (BLIP-2: 24) and intermediate size 20, a language model of width 32 and intermediate
size 40, pictures (or tiles of them) of 24 x 24 pixels. Layers differ in number between the parts.

Without torchvision the Auto classes do not load again what three of the processors save: LLaVA-OneVision's and InternVL's
hold a video processor, Mistral 3's is hidden.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    CLIPVisionConfig,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    OPTConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PixtralImageProcessorPil,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    T5Config,
)
from transformers.video_processing_utils import VideoProcessorMixin

from tests.families import Built
from training.common import word_tokenizer
from training.tiny_llava import CHAT_TEMPLATE

SIDE = 24
SQUARE = {"height": SIDE, "width": SIDE}
PINPOINTS = [[24, 48], [48, 24], [48, 48]]


def _tokenizer(*extra: str, **named: str) -> Any:
    """Word-level, with special tokens; the named ones are attributes too, as processors look them up."""
    plain: Any = word_tokenizer(extra=[*extra, *named.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, pad_token=plain.pad_token, unk_token=plain.unk_token,
        bos_token=plain.bos_token, eos_token=plain.eos_token, padding_side="left", extra_special_tokens=named,
    ) if named else plain  # fmt: skip


def _chat(image: str) -> str:
    return CHAT_TEMPLATE.replace("<image>", image)


def _sizes(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """What the gated language models share: width 32, intermediate size 40, two layers."""
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "tie_word_embeddings": False,
    } | more  # fmt: skip


def _siglip(**more: Any) -> SiglipVisionConfig:
    """Width 16, intermediate size 20, three layers, 4 x 4 patches, and no class token."""
    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE,
        "patch_size": 6, "vision_use_head": False,
    }  # fmt: skip
    return SiglipVisionConfig(**(sizes | more))


def _gated(layers: int, width: int, intermediate: int) -> dict[tuple[str, str], int]:
    """Counts of a gated language model."""
    return {
        ("language", "gate"): layers * intermediate,
        ("language", "up"): layers * intermediate,
        ("language", "hidden"): layers * intermediate,
        ("language", "down"): layers * width,
    }


def _with_video(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A processor whose class wants a video processor: an empty one stands in, as each real one needs torchvision."""
    with mock.patch("transformers.VideoProcessorMixin", VideoProcessorMixin, create=True):
        return make(*args, video_processor=VideoProcessorMixin(), **kwargs)


def llava_next() -> Built:
    """The last of four CLIP layers runs for nothing (``vision_feature_layer`` is -2); tiles stand in the batch dimension."""
    torch.manual_seed(0)
    tokenizer = _tokenizer("<image>")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=4, num_attention_heads=2, image_size=SIDE, patch_size=12,
        initializer_factor=5.0,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=vision, text_config=MistralConfig(**_sizes(tokenizer)), image_grid_pinpoints=PINPOINTS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=4,
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=12, vision_feature_select_strategy="default", chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    counts = _gated(2, 32, 40) | {
        ("vision", "hidden"): 4 * 20, ("vision", "down"): 4 * 16,
        ("connector", "hidden"): 32, ("connector", "down"): 32,
    }  # fmt: skip
    return Built(LlavaNextForConditionalGeneration(config).eval(), processor, counts)


def llava_onevision() -> Built:
    """SigLIP without a class token, read to its last layer, and Qwen2; tiles stand in the batch dimension."""
    torch.manual_seed(0)
    tokenizer = _tokenizer("<image>", "<video>")
    config = LlavaOnevisionConfig(
        vision_config=_siglip(), text_config=Qwen2Config(**_sizes(tokenizer)), image_grid_pinpoints=PINPOINTS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    images = LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS)
    processor = _with_video(
        LlavaOnevisionProcessor, images, tokenizer, num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    counts = _gated(2, 32, 40) | {
        ("vision", "hidden"): 3 * 20, ("vision", "down"): 3 * 16,
        ("connector", "hidden"): 32, ("connector", "down"): 32,
    }  # fmt: skip
    return Built(LlavaOnevisionForConditionalGeneration(config).eval(), processor, counts)


def _blip_2(text: Any, tokenizer: Any, language: dict[tuple[str, str], int]) -> Built:
    """Five query tokens; the Q-Former reads no text, so each of its two layers has the network for query tokens alone."""
    vision = Blip2VisionConfig(
        hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=12,
        initializer_range=0.3,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2,
        cross_attention_frequency=1, encoder_hidden_size=24, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    processor = Blip2Processor(BlipImageProcessorPil(size=SQUARE), tokenizer, num_query_tokens=5)
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=5, initializer_range=0.3,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens)  # the class leaves zeros
    counts = language | {
        ("vision", "hidden"): 3 * 20, ("vision", "down"): 3 * 24,
        ("qformer", "hidden"): 2 * 28, ("qformer", "down"): 2 * 16,
        ("connector", "down"): 32,
    }  # fmt: skip
    return Built(model.eval(), processor, counts)


def blip_2_opt() -> Built:
    """OPT's networks are not gated and stand in the decoder layer itself."""
    torch.manual_seed(0)
    tokenizer = _tokenizer("<image>")
    text = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, word_embed_proj_dim=32, ffn_dim=40, num_hidden_layers=4,
        num_attention_heads=2, max_position_embeddings=256, init_std=0.3, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return _blip_2(text, tokenizer, {("language", "hidden"): 4 * 40, ("language", "down"): 4 * 32})


def blip_2_t5() -> Built:
    """T5 with gated networks, as in Flan-T5: two encoder and two decoder layers, for generation fails on unequal numbers."""
    torch.manual_seed(0)
    tokenizer: Any = word_tokenizer(extra=["<image>"], start=False, end=True)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "d_model": 32, "d_kv": 16, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0, "initializer_factor": 1.5,
    }  # fmt: skip
    text = T5Config(**sizes)
    return _blip_2(text, tokenizer, _gated(2 + 2, 32, 40))


def paligemma() -> Built:
    """One linear layer between SigLIP and Gemma; all tokens of the prompt see each other. It has no chat template."""
    torch.manual_seed(0)
    tokenizer = _tokenizer("<image>")
    images = SiglipImageProcessorPil(size=SQUARE, image_seq_length=16)
    processor = PaliGemmaProcessor(images, tokenizer)  # adds 1152 tokens for places and segments
    text = GemmaConfig(**_sizes(tokenizer, head_dim=16, num_key_value_heads=1))
    config = PaliGemmaConfig(
        vision_config=_siglip(), text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=len(tokenizer), projection_dim=32, hidden_size=32, tie_word_embeddings=False,
    )  # fmt: skip
    counts = _gated(2, 32, 40) | {
        ("vision", "hidden"): 3 * 20, ("vision", "down"): 3 * 16,
        ("connector", "down"): 32,
    }  # fmt: skip
    return Built(PaliGemmaForConditionalGeneration(config).eval(), processor, counts)


def gemma3() -> Built:
    """The connector's linear layer is a bare parameter, so its outputs can be taken from the connector as a whole alone."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    text = Gemma3TextConfig(
        **_sizes(tokenizer, head_dim=16), query_pre_attn_scalar=16, sliding_window=12,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    config = Gemma3Config(
        vision_config=_siglip(), text_config=text, mm_tokens_per_image=4, boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id, image_token_index=tokenizer.image_token_id, initializer_range=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = Gemma3ForConditionalGeneration(config)
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # the class leaves zeros
    images = Gemma3ImageProcessorPil(size=SQUARE)
    processor = Gemma3Processor(images, tokenizer, chat_template=_chat("<start_of_image>"), image_seq_length=4)
    counts = _gated(2, 32, 40) | {
        ("vision", "hidden"): 3 * 20, ("vision", "down"): 3 * 16,
        ("connector", "down"): 32,
    }  # fmt: skip
    return Built(model.eval(), processor, counts)


def internvl() -> Built:
    """Up to three tiles and a thumbnail, in the batch dimension."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    vision = InternVLVisionConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=6,
        initializer_range=0.3,
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=Qwen2Config(**_sizes(tokenizer)), image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4, downsample_ratio=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
    template = _chat("<IMG_CONTEXT>")
    processor = _with_video(InternVLProcessor, images, tokenizer, image_seq_length=4, chat_template=template)
    counts = _gated(2, 32, 40) | {
        ("vision", "hidden"): 3 * 20, ("vision", "down"): 3 * 16,
        ("connector", "hidden"): 32, ("connector", "down"): 32,
    }  # fmt: skip
    return Built(InternVLForConditionalGeneration(config).eval(), processor, counts)


def _pixtral_processor() -> Any:
    """The real class: without torchvision transformers hides it, though all it wants is a function that the PIL file has."""
    path = "transformers.models.pixtral"
    pil = importlib.import_module(f"{path}.image_processing_pil_pixtral")
    try:
        importlib.import_module("torchvision")
    except ImportError:
        with mock.patch.dict(sys.modules, {f"{path}.image_processing_pixtral": pil}):
            return importlib.import_module(f"{path}.processing_pixtral").PixtralProcessor
    return importlib.import_module(f"{path}.processing_pixtral").PixtralProcessor


def mistral3() -> Built:
    """Pixtral's networks are gated, and the tokens of all images stand in one row; a linear merger precedes the projector."""
    torch.manual_seed(0)
    tokenizer = _tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=6,
        initializer_range=0.3,
    )  # fmt: skip
    config = Mistral3Config(
        vision_config=vision, text_config=MistralConfig(**_sizes(tokenizer, head_dim=16)), spatial_merge_size=2,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"), tie_word_embeddings=False,
    )  # fmt: skip
    images = PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 6, "width": 6})
    make = _pixtral_processor()
    processor = make(images, tokenizer, patch_size=6, spatial_merge_size=2, chat_template=_chat("[IMG]"))
    counts = _gated(2, 32, 40) | {
        ("vision", "gate"): 3 * 20, ("vision", "up"): 3 * 20, ("vision", "hidden"): 3 * 20, ("vision", "down"): 3 * 16,
        ("connector", "hidden"): 32, ("connector", "down"): 16 + 32,  # merger, projector
    }  # fmt: skip
    return Built(Mistral3ForConditionalGeneration(config).eval(), processor, counts)


def aya_vision() -> Built:
    """One layer of the connector makes up and gate in one, in this order: its first half is multiplied by silu(second half)."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(
        "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>",
        "TILE", "TILE_1", "TILE_2", "TILE_3", "TILE_GLOBAL",
    )  # fmt: skip
    config = AyaVisionConfig(
        vision_config=_siglip(), text_config=Cohere2Config(**_sizes(tokenizer)), downsample_factor=2,
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"), tie_word_embeddings=False,
        alignment_intermediate_size=28,  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
    processor = AyaVisionProcessor(
        images, tokenizer, patch_size=6, img_size=SIDE, downsample_factor=2, chat_template=CHAT_TEMPLATE
    )
    counts = _gated(2, 32, 40) | {
        ("vision", "hidden"): 3 * 20, ("vision", "down"): 3 * 16,
        ("connector", "gate"): 14, ("connector", "up"): 14, ("connector", "hidden"): 14, ("connector", "down"): 32,
    }  # fmt: skip
    return Built(AyaVisionForConditionalGeneration(config).eval(), processor, counts)


def cohere2_vision() -> Built:
    """As Aya Vision's connector, up before gate. SigLIP has its pooling head, whose network nothing reads.

    Its image processor exists for torchvision alone; GotOcr2's, which cuts tiles the same way, stands in. The processor
    takes ``patch_size`` for the number of tokens along the side of a tile.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(
        boi_token="<|START_OF_IMG|>", eoi_token="<|END_OF_IMG|>", image_token="<|IMG_PATCH|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )  # fmt: skip
    config = Cohere2VisionConfig(
        vision_config=_siglip(vision_use_head=True), text_config=Cohere2Config(**_sizes(tokenizer)), downsample_factor=2,
        alignment_intermediate_size=28, image_token_id=tokenizer.image_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    tiles: dict[str, Any] = {"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 3, "patch_size": 2}
    images = GotOcr2ImageProcessorPil(**tiles)
    processor = Cohere2VisionProcessor(images, tokenizer, chat_template=_chat("<|IMG_PATCH|>"))
    counts = _gated(2, 32, 40) | {
        ("vision", "hidden"): 3 * 20 + 20, ("vision", "down"): 3 * 16 + 16,  # layers, pooling head
        ("connector", "gate"): 14, ("connector", "up"): 14, ("connector", "hidden"): 14, ("connector", "down"): 32,
    }  # fmt: skip
    return Built(Cohere2VisionForConditionalGeneration(config).eval(), processor, counts)


BUILDERS: dict[str, Callable[[], Built]] = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "blip_2_opt": blip_2_opt,
    "blip_2_t5": blip_2_t5,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "internvl": internvl,
    "mistral3": mistral3,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
}
