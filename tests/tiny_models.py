"""Every architecture as a tiny random model, built from its configuration class: offline, in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import (
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip import CLIPVisionConfig

from lesion.core.sites import Site, Sites
from lesion.data.samples import Sample
from lesion.models.families import Family
from lesion.models.structure import Structure
from lesion.models.vlm import VisionLanguageModel
from training.common import word_tokenizer
from training.tiny_llava import CHAT_TEMPLATE

SIDE, PATCH, WIDTH, INTERMEDIATE, LAYERS = 24, 12, 16, 24, 3


def _text(tokenizer: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
        pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip


def llava(seed: int = 0) -> VisionLanguageModel:
    """Four vision layers of which LLaVA reads up to the third, three language layers."""
    torch.manual_seed(seed)
    tokenizer: Any = word_tokenizer(extra=["<image>"])
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=4, num_attention_heads=2, image_size=SIDE, patch_size=PATCH,
        initializer_factor=5.0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=_text(tokenizer), image_seq_length=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size), tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", chat_template=CHAT_TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip
    return VisionLanguageModel(LlavaForConditionalGeneration(config).eval(), processor, "random-llava")


def instructblip(seed: int = 0) -> VisionLanguageModel:
    """Two vision layers, two Q-Former layers, three language layers."""
    torch.manual_seed(seed)
    tokenizer: Any = word_tokenizer(extra=["<image>"])
    vision = InstructBlipVisionConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH,
        initializer_range=0.3,
    )  # fmt: skip
    qformer = InstructBlipQFormerConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2,
        cross_attention_frequency=1, encoder_hidden_size=16, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    config = InstructBlipConfig(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), text_config=_text(tokenizer).to_dict(),
        num_query_tokens=5, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = InstructBlipForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens)
    model.eval()
    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = InstructBlipProcessor(images, tokenizer, word_tokenizer(), num_query_tokens=5)
    return VisionLanguageModel(model, processor, "random-instructblip")


BUILDERS = {"llava": llava, "instructblip": instructblip}


def samples(count: int) -> list[Sample]:
    """Pictures of noise, each another one."""
    made = []
    for i in range(count):
        pixels = torch.randint(256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        made.append(Sample(f"noise-{i}", Image.fromarray(pixels.numpy()), None, "a big red car is at the top ."))
    return made


class ThreeNeurons(nn.Module):
    """A gated feed-forward network with three units and no activation function: y = w_down . ((w_gate x) * (w_up x))."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.gate_proj = nn.Linear(1, 3, bias=False)
        self.mlp.up_proj = nn.Linear(1, 3, bias=False)
        self.mlp.down_proj = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.mlp.gate_proj.weight.copy_(torch.tensor([[1.0], [2.0], [-3.0]]))
            self.mlp.up_proj.weight.copy_(torch.tensor([[1.0], [1.0], [0.5]]))
            self.mlp.down_proj.weight.copy_(torch.tensor([[1.0, -0.5, 2.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mlp: Any = self.mlp
        return mlp.down_proj(mlp.gate_proj(x) * mlp.up_proj(x))

    @property
    def sites(self) -> Sites:
        return Sites([
            Site("mlp.gate_proj", "language", "gate", 0, 3, out="mlp.down_proj"),
            Site("mlp.up_proj", "language", "up", 0, 3, out="mlp.down_proj"),
            Site("mlp.down_proj", "language", "hidden", 0, 3, side="input"),
            Site("mlp.down_proj", "language", "down", 0, 1),
        ])  # fmt: skip


class Numbers:
    """A scoring batch for :class:`ThreeNeurons`: ``x`` is ``[rows, tokens]``, the loss is the sum over tokens."""

    def __init__(self, model: nn.Module, x: list[list[float]], counted: list[list[bool]] | None = None) -> None:
        self.model, self.x = model, torch.tensor(x)
        self.counted = torch.ones_like(self.x, dtype=torch.bool) if counted is None else torch.tensor(counted)

    def __len__(self) -> int:
        return len(self.x)

    def losses(self) -> torch.Tensor:
        return (self.model(self.x.unsqueeze(-1))[..., 0] * self.counted).sum(1)

    def run_perturbed(self, noise: float, seed: int) -> None:
        """The noise is no noise: every number is ``noise`` larger."""
        with torch.no_grad():
            self.model(torch.cat([self.x, self.x + noise]).unsqueeze(-1))

    def tokens(self, site: Site, length: int, positions: str) -> torch.Tensor:
        return self.counted


def hook_count(model: nn.Module) -> int:
    """Forward and backward hooks of every module."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) + len(m._backward_pre_hooks)
        for m in model.modules()
    )


def all_language() -> Structure:
    """Of a made-up model: every module belongs to the language model."""
    return Structure(vision=None, language="", decoder="", generator="", family=Family(), unreachable=())
