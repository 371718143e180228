"""The linearised model against one written by hand, conservation of relevance, and what is refused."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.activations import ACT2FN

from lesion.core.errors import ModelError
from lesion.core.sites import Site
from lesion.hooks.capture import capture_gradients
from lesion.hooks.relevance import linearised
from lesion.models.discovery import discover
from tests.models.test_families import answered
from tests.tiny_models import hook_count

IDS = torch.tensor([[1, 5, 7, 2, 9, 4]])
TARGETS = torch.tensor([5, 7, 2, 9, 4, 1])


def llama(layers: int = 1) -> Any:
    """Random weights in float64, no biases, norms with weights of their own; four heads, two of keys and values."""
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=20, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.5, rms_norm_eps=1e-5,
    )).eval().double().requires_grad_(False)  # fmt: skip
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.weight.copy_(torch.rand_like(module.weight) + 0.5)
    return model


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits[0].double(), TARGETS)


def relevances(model: Any, linear: bool = True) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Role and layer -> activation and gradient, each ``[tokens, width]``; the embeddings and the logits too."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    sites = [s for s in discover(model) if s.role != "head"]
    sites += [
        Site("model.embed_tokens", "language", "embeddings", 0, model.config.hidden_size),
        Site("lm_head", "language", "logits", 0, model.config.vocab_size),
    ]

    def see(site: Site, activations: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
        found[f"{site.role} {site.layer}"] = activations[0][0], gradients[0][0]

    with capture_gradients(model, sites, see), linearised(model) if linear else nullcontext():
        loss_of(model(IDS, use_cache=False).logits).backward()
    return found


# -- against a model written by hand -----------------------------------------------------------------------------------------
def norm_by_hand(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().detach() * weight


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions; x is ``[heads, tokens, 4]``, base 10,000."""
    angles = torch.outer(torch.arange(x.shape[1]).double(), torch.tensor([1.0, 10000.0**-0.5]).double()).repeat(1, 2)
    turned = torch.cat([-x[..., 2:], x[..., :2]], -1)
    return x * angles.cos() + turned * angles.sin()


def by_hand(model: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """One layer with the rules written as they are stated: constants are detached, a product gives half to each factor."""
    weights = dict(model.named_parameters())

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"model.layers.0.{name}.weight"].T

    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, x: torch.Tensor) -> torch.Tensor:
        kept[name] = x.requires_grad_() if x.is_leaf else x
        kept[name].retain_grad()
        return x

    x = keep("embeddings 0", weights["model.embed_tokens.weight"][IDS[0]].clone())
    normed = norm_by_hand(x, weights["model.layers.0.input_layernorm.weight"])
    heads = [linear(f"self_attn.{n}_proj", normed).unflatten(1, (-1, 4)).transpose(0, 1) for n in "qkv"]
    q, k, v = heads[0], heads[1].repeat_interleave(2, 0), heads[2].repeat_interleave(2, 0)
    scores = rotated(q) @ rotated(k).transpose(1, 2) / math.sqrt(4)
    pattern = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf).softmax(-1).detach()
    x = x + linear("self_attn.o_proj", (pattern @ v).transpose(0, 1).flatten(1))
    normed = norm_by_hand(x, weights["model.layers.0.post_attention_layernorm.weight"])
    gate, up = keep("gate 0", linear("mlp.gate_proj", normed)), keep("up 0", linear("mlp.up_proj", normed))
    act = gate * torch.sigmoid(gate).detach()  # silu(x) = x * sigmoid(x)
    hidden = keep("hidden 0", (act * up.detach() + act.detach() * up) / 2)
    down = keep("down 0", linear("mlp.down_proj", hidden))
    logits = keep("logits 0", norm_by_hand(x + down, weights["model.norm.weight"]) @ weights["lm_head.weight"].T)
    loss_of(logits[None]).backward()
    return {name: (x.detach(), x.grad) for name, x in kept.items() if x.grad is not None}


def test_gradients_are_those_of_a_linearised_llama_written_by_hand():
    model = llama()
    found, expected = relevances(model), by_hand(model)
    assert set(found) == set(expected) == {f"{r} 0" for r in ("embeddings", "gate", "up", "hidden", "down", "logits")}
    for name, (a, g) in expected.items():
        # transformers computes norms and rotary positions in float32.
        torch.testing.assert_close(found[name][0], a, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[name][1], g, rtol=1e-4, atol=1e-6)
    plain = relevances(model, linear=False)
    for name in ("embeddings 0", "gate 0", "up 0", "hidden 0", "down 0"):
        difference = (plain[name][1] - expected[name][1]).abs().max()
        assert difference > 0.01 * expected[name][1].abs().max(), f"{name}: the rules change nothing here"


# -- conservation ---------------------------------------------------------------------------------------------------------
def test_relevance_is_conserved():
    """Without biases everything is linear from the embeddings on: what goes in at the logits comes out at the embeddings.

    A unit's relevance is shared half and half by its gate and its up, and a layer's hidden units have what its channels have.
    """
    model = llama(layers=3)
    found = {name: a * g for name, (a, g) in relevances(model).items()}
    total = found["logits 0"].sum()
    assert float(found["embeddings 0"].sum()) == pytest.approx(float(total), rel=1e-4)
    for layer in range(3):
        hidden = found[f"hidden {layer}"]
        torch.testing.assert_close(found[f"gate {layer}"], hidden / 2, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found[f"up {layer}"], hidden / 2, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(hidden.sum(-1), found[f"down {layer}"].sum(-1), rtol=1e-4, atol=1e-7)
    plain = relevances(model, linear=False)
    lost = float((plain["embeddings 0"][0] * plain["embeddings 0"][1]).sum() / total)
    assert not 0.9 < lost < 1.1, "the gradient itself conserves nothing"


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "opt", "llava", "gemma3", "blip_2_t5", "mllama"])
def test_the_forward_pass_is_the_same_bit_for_bit_and_no_hook_is_left(family):
    vlm, prompts, answers = answered(family)
    [batch] = vlm.batches(prompts[:1], answers[:1], 1)
    sites = vlm.sites.select("language")
    with vlm.prepared():
        before = hook_count(vlm.model)
        seen: list[str] = []
        losses = []
        for context in (nullcontext(), linearised(vlm.model)):
            with capture_gradients(vlm.model, sites, lambda site, a, g: seen.append(site.key)), context:
                losses.append(batch.losses())
                losses[-1].sum().backward()
        assert hook_count(vlm.model) == before
    assert torch.equal(*losses)
    assert sorted(seen[: len(seen) // 2]) == sorted(seen[len(seen) // 2 :]) == sorted(s.key for s in sites if s.reachable)


# -- single rules ---------------------------------------------------------------------------------------------------------
def gradient_through(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of the sum of the outputs."""
    x = x.clone().requires_grad_()
    model = nn.ModuleDict({"part": module})
    model.requires_grad_(False)
    with linearised(model):
        module(x).sum().backward()
    assert x.grad is not None and hook_count(model) == 0
    return x.grad


def test_a_layer_norm_subtracts_the_mean_and_divides_by_a_constant():
    """x = (1, 2, 6): the mean is 3, the variance (4 + 1 + 9) / 3 = 14 / 3. With the weights (1, 2, 3) and the divisor s the sum
    of the outputs is ((x1 - m) + 2 (x2 - m) + 3 (x3 - m)) / s, and m has a third of every x: (1 - 2, 2 - 2, 3 - 2) / s.
    """
    norm = nn.LayerNorm(3, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([5.0, 6.0, 7.0]))
    found = gradient_through(norm, torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0, 1.0]]) / math.sqrt(14 / 3))


def test_a_norm_whose_gain_is_one_more_than_its_weight():
    """Gemma's: x = (3, 4), the mean square is 12.5; gains 1.5 and 3."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    norm = Gemma3RMSNorm(2, eps=0.0)
    norm.weight.data = torch.tensor([0.5, 2.0])
    found = gradient_through(norm, torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.5, 3.0]]) / math.sqrt(12.5))


def test_activation_functions_are_multiples_of_their_input():
    """silu(x) / x = sigmoid(x); relu(x) / x is 1 or 0; a unit at 0 passes nothing on."""
    x = torch.tensor([[-2.0, 0.0, 3.0]])
    sigmoid = torch.sigmoid(x)
    torch.testing.assert_close(gradient_through(ACT2FN["silu"], x), torch.where(x == 0, 0, sigmoid))
    torch.testing.assert_close(gradient_through(nn.ReLU(), x), torch.tensor([[0.0, 0.0, 1.0]]))
    with pytest.raises(ModelError, match="relevance cannot pass a Sigmoid: its value at 0 is not 0; choose another scorer"):
        gradient_through(nn.Sigmoid(), x)


def test_a_norm_of_another_kind_is_refused():
    class MaxNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / x.abs().amax(-1, keepdim=True)

    with pytest.raises(ModelError, match="relevance cannot pass a MaxNorm: it is no norm that lesion knows"):
        gradient_through(MaxNorm(), torch.tensor([[1.0, 2.0, 6.0]]))


# -- what is refused --------------------------------------------------------------------------------------------------------
class FunctionalMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.gelu(self.up_proj(x)))


class Bare(nn.Module):
    """A layer that attends, and normalises by a function."""

    def __init__(self) -> None:
        super().__init__()
        attention = type("MyAttention", (nn.Module,), {"forward": lambda self, x: self.q_proj(x) + self.k_proj(x)})()
        attention.q_proj, attention.k_proj = nn.Linear(4, 4), nn.Linear(4, 4)
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attention(nn.functional.rms_norm(x, (4,)))


def test_functions_that_are_no_modules_are_refused():
    with pytest.raises(ModelError, match=r"part \(FunctionalMlp\): its activation function is not a module"):
        gradient_through(FunctionalMlp(), torch.ones(1, 4))
    layers = nn.ModuleList([Bare()])
    layers.forward = lambda x: layers[0](x)
    with pytest.raises(ModelError, match=r"part.0 \(Bare\): it has no norm that is a module"):
        gradient_through(layers, torch.ones(1, 4))


@pytest.mark.parametrize(("family", "name"), [
    ("phi3", r"model.layers.1.self_attn \(Phi3Attention\): its queries and keys are not projections of their own"),
    ("gpt2", r"transformer.h.1.attn \(GPT2Attention\): its queries and keys"),
    ("mixtral", r"model.layers.1.mlp.\w+ \(Mixtral\w+\): what it does with its weights is not known"),
    ("qwen2_5_vl", r"model.visual.blocks.1.attn \(Qwen2_5_VLVisionAttention\): its queries and keys"),
])  # fmt: skip
def test_models_that_cannot_be_linearised_are_refused_and_no_hook_is_left(family, name):
    vlm, prompts, answers = answered(family)
    [batch] = vlm.batches(prompts[:1], answers[:1], 1)
    with vlm.prepared():
        batch.losses()  # transformers adds hooks of its own
        before = hook_count(vlm.model)
        with pytest.raises(ModelError, match=f"relevance cannot pass {name}"), capture_gradients(
            vlm.model, vlm.sites.select(), lambda *_: None
        ), linearised(vlm.model):  # fmt: skip
            batch.losses()
        assert hook_count(vlm.model) == before


def test_a_part_that_no_gradient_passes_may_be_of_any_make():
    vlm, prompts, answers = answered("qwen2_5_vl")
    [batch] = vlm.batches(prompts[:1], answers[:1], 1)
    seen: list[str] = []
    sites = vlm.sites.select("language")
    with vlm.prepared(), capture_gradients(vlm.model, sites, lambda site, *_: seen.append(site.key)), linearised(vlm.model):
        batch.losses().sum().backward()
    assert sorted(seen) == sorted(s.key for s in sites)
