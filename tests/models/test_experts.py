"""Mixtures of experts: computed as the model computes them, each expert's neurons its own."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AriaTextConfig, AutoModelForCausalLM, GptOssConfig, NemotronHConfig
from transformers.integrations import moe

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.hooks.attach import attached
from lesion.hooks.capture import capture_activations
from lesion.hooks.intervene import mask
from lesion.models import experts
from lesion.models.discovery import discover
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.score import out_norms, score
from tests.families import text as builders
from tests.families.vlm_b import qwen3_vl_moe
from tests.models.test_families import answered

IDS = torch.tensor([[3, 7, 1, 9, 4, 4, 12], [5, 5, 8, 2, 2, 6, 11]])


@functools.cache
def mixtral() -> VisionLanguageModel:
    made = builders.mixtral()
    return VisionLanguageModel(made.model, made.processor, "mixtral")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def first(vlm: VisionLanguageModel, role: str, expert: int = 0):
    return next(s for s in vlm.sites if s.role == role and s.expert == expert)


# -- lesion's function beside the model's own ------------------------------------------------------------------------------
def other_mixtures():
    """Every layout that transformers' experts come in: interleaved, transposed, with biases, ungated."""
    size: dict[str, Any] = {
        "vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    yield "gpt_oss", GptOssConfig(
        **size, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, head_dim=8, layer_types=["full_attention"] * 2
    )
    yield "aria_text", AriaTextConfig(**size, intermediate_size=24, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1)
    yield "nemotron_h", NemotronHConfig(
        **size, layers_block_type=["moe", "attention"], n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        moe_shared_expert_intermediate_size=24, head_dim=8, n_groups=1, mamba_num_heads=4, mamba_head_dim=8, ssm_state_size=8,
    )  # fmt: skip


def layouts_of_transformers() -> set[str]:
    """The keywords that the decorator is given: a new one means a layout that is not tested here."""
    return set(inspect.signature(moe.use_experts_implementation).parameters) - {"experts_class", "experts_interface"}


def test_transformers_has_no_layout_but_those_that_are_known():
    assert layouts_of_transformers() == {"is_concatenated", "is_transposed", "has_bias", "has_gate", "has_post_expert_norm"}


@pytest.mark.parametrize(("name", "config"), list(other_mixtures()), ids=lambda x: x if isinstance(x, str) else "")
def test_experts_of_every_layout_compute_what_their_own_forward_does(name, config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.set_experts_implementation("eager")
    own = logits(model)
    with experts.adopted(model):
        ours = logits(model)
        found = [(p, m) for p, m in model.named_modules() if experts.layout(m) is not None]
    assert found and torch.equal(logits(model), own), "the implementation is as it was"
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)
    # gate and up are told apart: the hidden unit is what the module's own gate makes of them.
    path, module = found[0]
    seen: dict[str, torch.Tensor] = {}
    mine = [s for s in discover(model) if s.path == path and s.expert is not None]
    with capture_activations(model, mine, lambda site, x: seen.__setitem__(site.key, x)):
        logits(model)
    for expert in {s.expert for s in mine}:
        values = {role: seen.get(f"{path}.{expert}:{role}") for role in ("gate", "up", "hidden", "down")}
        if values["hidden"] is None or values["gate"] is None or values["up"] is None:
            continue
        given = values["hidden"].any(-1)
        parts = [values["gate"][given], values["up"][given]]
        fused = torch.cat(parts, -1) if module.is_concatenated else torch.stack(parts, -1).flatten(-2)
        torch.testing.assert_close(module._apply_gate(fused), values["hidden"][given])


@pytest.mark.parametrize("make", [builders.mixtral, qwen3_vl_moe], ids=["mixtral", "qwen3_vl_moe"])
def test_the_functions_agree_with_transformers_own(make):
    model = make().model
    given = {}
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        model.set_experts_implementation(implementation)
        given[implementation] = logits(model)
    with experts.adopted(model):
        ours = logits(model)
    for implementation, own in given.items():
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4, msg=implementation)


def test_quantised_experts_are_refused_by_name():
    model = builders.mixtral().model
    layer = model.model.layers[0].mlp.experts
    layer.down_proj = torch.nn.Parameter(layer.down_proj.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.experts \(MixtralExperts\) looks like a feed-forward.*adding-a-fam"):
        discover(model)


# -- attaching -------------------------------------------------------------------------------------------------------------
def test_nothing_is_left_behind_even_after_an_error():
    model = builders.mixtral().model
    before, own = logits(model), model.config._experts_implementation
    site = next(s for s in discover(model) if s.role == "gate")
    with pytest.raises(ZeroDivisionError), attached(model, [(site, lambda x, routed: x * 0)]):
        assert not torch.equal(logits(model), before)
        raise ZeroDivisionError
    assert torch.equal(logits(model), before) and model.config._experts_implementation == own
    assert not len(experts._ACTS)


def test_masks_nest_and_each_takes_away_its_own():
    vlm = mixtral()
    one, other = (NeuronSet(Neuron(first(vlm, "hidden", e), i) for i in range(24)) for e in (0, 1))
    with mask(vlm.model, one):
        only_one = logits(vlm.model)
        with mask(vlm.model, other):
            both = logits(vlm.model)
        assert torch.equal(logits(vlm.model), only_one)
    with mask(vlm.model, one | other):
        assert torch.equal(logits(vlm.model), both)


def test_a_mask_of_one_expert_moves_only_the_tokens_that_it_was_given():
    vlm = mixtral()
    layer = vlm.model.model.layers[-1].mlp  # after the last layer no token sees another
    site = next(s for s in vlm.sites if s.path.endswith("layers.1.mlp.experts") and s.role == "hidden" and s.expert == 2)
    routes = []
    handle = layer.gate.register_forward_hook(lambda m, a, output: routes.append(output[-1]))
    before = logits(vlm.model)
    handle.remove()
    given = (routes[0] == 2).any(-1)
    assert 0 < given.sum() < len(given)
    with mask(vlm.model, NeuronSet(Neuron(site, i) for i in range(site.width))):
        moved = ((logits(vlm.model) - before).abs() > 1e-5).any(-1).flatten()  # the experts' own function rounds otherwise
    assert torch.equal(moved, given)


def test_zeroing_weights_is_the_same_as_masking():
    """The truth by another way: a hidden unit that writes nothing, and an output channel that is not written."""
    vlm = mixtral()
    for role in ("hidden", "down"):
        site = first(vlm, role, 1)
        with mask(vlm.model, NeuronSet([Neuron(site, 3), Neuron(site, 9)])):
            masked = logits(vlm.model)
        weight = vlm.model.get_submodule(site.path).down_proj
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[(1, slice(None), [3, 9]) if role == "hidden" else (1, [3, 9])] = 0
            edited = logits(vlm.model)
            weight.copy_(kept)
        torch.testing.assert_close(masked, edited)


def test_means_are_refused():
    vlm = mixtral()
    site = first(vlm, "gate")
    neurons, means = NeuronSet([Neuron(site, 0)]), {"mean": {site.key: np.zeros(site.width)}}
    with pytest.raises(OptionError, match=r"'mean' is not for experts.*use 'zero'"), mask(vlm.model, neurons, "mean", means):
        pass


# -- scoring ---------------------------------------------------------------------------------------------------------------
def test_importance_is_the_mean_over_all_tokens_with_0_where_an_expert_was_not_asked():
    """By hand, with gradients from autograd on values that the test itself caught."""
    vlm = mixtral()
    vlm, prompts, answers = answered("mixtral")
    found = score(vlm.model, vlm.sites, vlm.batches(prompts[:1], answers[:1], 1), ("can", "activation", "wanda"))
    for role in ("gate", "up", "hidden", "down"):
        for site in [s for s in vlm.sites if s.role == role and s.layer == 1]:
            caught: list = []

            def catch(x, routed, caught=caught):
                caught.append((x, routed))
                x.retain_grad()

            (batch,) = vlm.batches(prompts[:1], answers[:1], 1)
            vlm.model.requires_grad_(True)
            with attached(vlm.model, [(site, catch)]):
                batch.losses().sum().backward()
            vlm.model.zero_grad()
            vlm.model.requires_grad_(False)
            tokens = batch.inputs["input_ids"].shape[1]
            if not caught:
                assert site.key not in found["can"].sums
                continue
            ((x, routed),) = caught
            assert routed.total == tokens
            expected = (x.grad.abs() * x.abs()).sum(0) / tokens
            torch.testing.assert_close(torch.from_numpy(found["can"].values(site)).float(), expected.detach())
            wanda = x.detach().abs().sum(0) / tokens * out_norms(vlm.model, site)
            torch.testing.assert_close(torch.from_numpy(found["wanda"].values(site)).float(), wanda)


def test_what_is_saved_names_the_expert(tmp_path):
    vlm = mixtral()
    neurons = NeuronSet([Neuron(first(vlm, "gate", 3), 5), Neuron(first(vlm, "gate", 0), 5)])
    assert str(next(iter(neurons))) == "language layer 0 expert 0 gate[5]"
    neurons.save(tmp_path / "set.json")
    assert [s["expert"] for s in json.loads((tmp_path / "set.json").read_text())["sites"]] == [0, 3]
    again = NeuronSet.load(tmp_path / "set.json").fit(vlm.sites)
    assert again == neurons and {s.expert for s in again.sites} == {0, 3}
    _, prompts, answers = answered("mixtral")
    scored = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 1))
    Ranking(scored["can"], vlm.sites).save(tmp_path / "ranking.csv")
    head, row = (tmp_path / "ranking.csv").read_text().splitlines()[:2]
    assert head.startswith("rank,path,component,role,layer,expert,index,can,") and row.split(",")[5] in "0123"
