"""Language models without an image part: every neuron is of component ``language``, the processor is a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.families import Built
from training.common import word_tokenizer


def _tokens(tokenizer: Any) -> dict[str, Any]:
    """What every configuration says of the tokenizer."""
    return {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip


def _built(make: Callable[[dict[str, Any]], Any], counts: dict[str, int]) -> Built:
    """``make`` builds the model from what :func:`_tokens` returns."""
    torch.manual_seed(0)
    tokenizer: Any = word_tokenizer()
    return Built(make(_tokens(tokenizer)).eval(), tokenizer, {("language", role): count for role, count in counts.items()})  # pyright: ignore[reportArgumentType]


def llama() -> Built:
    """Two key and value heads for four heads; biases in the feed-forward networks."""

    def make(tokens: dict[str, Any]) -> Any:
        config = LlamaConfig(
            **tokens, hidden_size=16, intermediate_size=28, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, initializer_range=0.3, mlp_bias=True,
        )  # fmt: skip
        return LlamaForCausalLM(config)

    return _built(make, {"gate": 3 * 28, "up": 3 * 28, "hidden": 3 * 28, "down": 3 * 16})


def mistral() -> Built:
    """A sliding window of eight tokens."""

    def make(tokens: dict[str, Any]) -> Any:
        config = MistralConfig(
            **tokens, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, sliding_window=8, initializer_range=0.3,
        )  # fmt: skip
        return MistralForCausalLM(config)

    return _built(make, {"gate": 2 * 20, "up": 2 * 20, "hidden": 2 * 20, "down": 2 * 24})


def qwen3() -> Built:
    """Heads that are together wider than the model, embeddings tied to the output."""

    def make(tokens: dict[str, Any]) -> Any:
        config = Qwen3Config(
            **tokens, hidden_size=20, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, max_position_embeddings=128, initializer_range=0.3, tie_word_embeddings=True,
        )  # fmt: skip
        return Qwen3ForCausalLM(config)

    return _built(make, {"gate": 3 * 36, "up": 3 * 36, "hidden": 3 * 36, "down": 3 * 20})


def phi3() -> Built:
    """One module computes gate and up: the first half of its output is the gate's."""

    def make(tokens: dict[str, Any]) -> Any:
        config = Phi3Config(
            **tokens, hidden_size=16, intermediate_size=22, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            max_position_embeddings=128, original_max_position_embeddings=128, initializer_range=0.3,
        )  # fmt: skip
        return Phi3ForCausalLM(config)

    return _built(make, {"gate": 2 * 22, "up": 2 * 22, "hidden": 2 * 22, "down": 2 * 16})


def gpt2() -> Built:
    """``Conv1D`` modules, whose weight is the transpose of a linear layer's; embeddings tied to the output."""

    def make(tokens: dict[str, Any]) -> Any:
        config = GPT2Config(
            **tokens, n_embd=24, n_inner=44, n_layer=3, n_head=2, n_positions=128, initializer_range=0.3, resid_pdrop=0.1
        )  # fmt: skip
        return GPT2LMHeadModel(config)

    return _built(make, {"hidden": 3 * 44, "down": 3 * 24})


def opt() -> Built:
    """The feed-forward network has no module of its own, ReLU, and embeddings narrower than the model."""

    def make(tokens: dict[str, Any]) -> Any:
        config = OPTConfig(
            **tokens, hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=128,
            word_embed_proj_dim=16, init_std=0.3,
        )  # fmt: skip
        return OPTForCausalLM(config)

    return _built(make, {"hidden": 2 * 40, "down": 2 * 24})


def mixtral() -> Built:
    """Four experts in each layer, of which a token sees two; an expert's neurons are its own.

    Rows of the experts' weights have a multiple of 16 bytes, which ``grouped_mm`` asks for.
    """

    def make(tokens: dict[str, Any]) -> Any:
        config = MixtralConfig(
            **tokens, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128, initializer_range=0.3,
        )  # fmt: skip
        return MixtralForCausalLM(config)

    return _built(make, {"gate": 2 * 4 * 24, "up": 2 * 4 * 24, "hidden": 2 * 4 * 24, "down": 2 * 4 * 16})


BUILDERS: dict[str, Callable[[], Built]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen3": qwen3,
    "phi3": phi3,
    "gpt2": gpt2,
    "opt": opt,
    "mixtral": mixtral,
}
