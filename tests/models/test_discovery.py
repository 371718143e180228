"""Site discovery against counts worked out by hand, and reachability against gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from lesion.core.errors import ModelError
from lesion.models.discovery import discover
from lesion.scoring.score import score
from tests import tiny_models
from tests.tiny_models import INTERMEDIATE, LAYERS, WIDTH


def test_llava_counts():
    sites = tiny_models.llava().sites
    counted = {(c, r): sites.select(c, r).neurons for c in ("language",) for r in ("gate", "up", "hidden", "down")}
    assert counted == {
        ("language", "gate"): LAYERS * INTERMEDIATE, ("language", "up"): LAYERS * INTERMEDIATE,
        ("language", "hidden"): LAYERS * INTERMEDIATE, ("language", "down"): LAYERS * WIDTH,
    }  # fmt: skip
    assert sites.select("vision", "hidden").neurons == 4 * 20
    assert sites.select("vision", "down").neurons == 4 * 16
    assert sites.select("connector", "hidden").neurons == WIDTH
    assert sites.select("connector", "down").neurons == WIDTH
    assert [s.layer for s in sites.select("language", "gate")] == [0, 1, 2]


def test_instructblip_counts():
    sites = tiny_models.instructblip().sites
    assert sites.select("vision", "hidden").neurons == 2 * 20
    assert sites.select("qformer", "hidden").neurons == 2 * 2 * 28  # two banks a layer
    assert sites.select("qformer", "down").neurons == 2 * 2 * 16
    assert sites.select("connector").neurons == WIDTH  # language_projection has output channels only
    assert sites.select("language").neurons == LAYERS * (3 * INTERMEDIATE + WIDTH)


def test_unreachable_sites_are_those_that_no_gradient_reaches(vlm):
    samples = tiny_models.samples(2)
    prompts = [vlm.prompt(s, "What do you see?") for s in samples]
    answers = vlm.generate(vlm.embed(prompts), 6)
    importances = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), ["gradient"])
    # No gradient at all, or (where an output is cut away by slicing) one that is zero everywhere.
    silent = {s.key for s in vlm.sites if not importances["gradient"].values(s).any()}
    assert silent == {s.key for s in vlm.sites if not s.reachable}
    assert silent, "each of these families has a part that nothing reads"


@pytest.mark.parametrize(("layer", "dead"), [(-2, {3}), (-1, set()), (2, {2, 3}), ([1, 3], {3})])
def test_llava_reachability_follows_the_vision_layer_that_is_read(layer, dead):
    model = tiny_models.llava().model
    model.config.vision_feature_layer = layer
    vision = discover(model).select("vision")
    assert {s.layer for s in vision if not s.reachable} == dead


def test_a_model_without_feed_forward_sites_is_refused():
    with pytest.raises(ModelError, match="no feed-forward site"):
        discover(nn.Sequential(nn.Linear(2, 2)), tiny_models.all_language())


def test_projections_that_do_not_fit_are_refused():
    model = tiny_models.ThreeNeurons()
    model.mlp.up_proj = nn.Linear(1, 2)
    with pytest.raises(ModelError, match=r"mlp do not fit together: widths \(3, 2, 3\)"):
        discover(model, tiny_models.all_language())


def test_a_gate_that_does_not_fit_does_not_pass_for_an_ungated_network():
    model = tiny_models.ThreeNeurons()
    model.mlp.gate_proj = nn.Linear(1, 2)
    with pytest.raises(ModelError, match=r"mlp do not fit together: widths \(2, 3, 3\)"):
        discover(model, tiny_models.all_language())


def test_a_feed_forward_network_of_an_unknown_make_is_refused_with_its_class_and_path():
    class OddMLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rise, self.fall = nn.Linear(4, 6), nn.Linear(6, 4)

    model = nn.Module()
    model.layers = nn.ModuleList([tiny_models.ThreeNeurons(), OddMLP()])
    with pytest.raises(ModelError, match=r"layers\.1 \(OddMLP\).*1 such modules.*adding-a-family"):
        discover(model, tiny_models.all_language())


def test_every_site_names_a_module_whose_activation_has_its_width(vlm):
    seen: dict[str, int] = {}
    modules = dict(vlm.model.named_modules())
    handles = []
    for site in vlm.sites:
        if site.side == "input":
            hook = lambda m, a, key=site.key: seen.__setitem__(key, a[0].shape[-1])  # noqa: E731
            handles.append(modules[site.path].register_forward_pre_hook(hook))
        else:
            hook = lambda m, a, out, key=site.key: seen.__setitem__(key, out.shape[-1])  # noqa: E731
            handles.append(modules[site.path].register_forward_hook(hook))
    prompt = vlm.prompt(tiny_models.samples(1)[0], "What do you see?")
    with torch.inference_mode():
        vlm.model(**prompt.inputs)
    for handle in handles:
        handle.remove()
    assert seen == {s.key: s.whole for s in vlm.sites}
    assert all(s.slice.stop <= s.whole for s in vlm.sites)


def test_the_counts_of_the_7b_models_in_the_docs():
    """From the sizes in their published configurations; no weights are made."""
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14,
        projection_dim=768,
    )  # fmt: skip
    llava = LlavaConfig(vision_config=vision, text_config=LlamaConfig(vocab_size=32064))
    blip = InstructBlipConfig(text_config=LlamaConfig(vocab_size=32001).to_dict(), num_query_tokens=32)
    docs = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()
    with torch.device("meta"):
        models = {
            "LLaVA-1.5-7b": LlavaForConditionalGeneration(llava),
            "InstructBLIP-vicuna-7b": InstructBlipForConditionalGeneration(blip),
        }
    for name, model in models.items():
        sites, size = discover(model), sum(p.numel() for p in model.parameters())
        (row,) = (line for line in docs.splitlines() if line.startswith(f"| {name} | {size / 1e9:.2f} billion"))
        assert f"| {sites.select().neurons:,} |" in row and f"| {sites.select('language').neurons:,} (" in row
        assert f"| {2 * size / 1e9:.1f} GB |" in row
        assert sites.select("language", "gate").neurons == 352_256 and sites.select("language", "down").neurons == 131_072
