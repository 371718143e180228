"""The share of the residual stream: by hand, against hidden states, and where there is no stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lesion.core.errors import OptionError
from lesion.core.sites import Site, Sites
from lesion.scoring.options import ScoreOptions
from lesion.scoring.output_share import layer_path
from lesion.scoring.score import score
from tests import tiny_models
from tests.models.test_families import answered
from tests.tiny_models import Numbers, ThreeNeurons

NAME = "output-share"


class Layered(nn.Module):
    """One layer on a stream of two channels: r = (x, 2x) + W h, with h = (x, -x) and W = ((3, 0), (4, 2)); y = the sum of r."""

    def __init__(self) -> None:
        super().__init__()
        layer: Any = nn.Module()
        layer.up_proj, layer.down_proj = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        layer.forward = lambda x: (x + layer.down_proj(layer.up_proj(x)), "and what else a layer gives")
        self.layers = nn.ModuleList([layer])
        with torch.no_grad():
            layer.up_proj.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
            layer.down_proj.weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](torch.cat([x, 2 * x], -1))[0].sum(-1, keepdim=True)

    sites = Sites([
        Site("layers.0.down_proj", "language", "hidden", 0, 2, side="input"),
        Site("layers.0.down_proj", "language", "down", 0, 2),
    ])  # fmt: skip


@pytest.mark.parametrize("how", ["mean", "max", "sum"])
def test_shares_by_hand(how):
    """r = (x, 2x) + (3x, 4x - 2x) = (4x, 4x), of norm 4 sqrt(2) |x|; at both tokens, x = 1 and -2, every share is the same.

    Units write x (3, 4), of norm 5 |x|, and -x (0, 2), of norm 2 |x|; channels 3x and 2x.
    """
    model = Layered()
    batch = Numbers(model, [[1.0, -2.0, 7.0]], [[True, True, False]])
    found = score(model, model.sites, [batch], NAME, ScoreOptions(aggregate=how))[NAME]
    tokens = 2 if how == "sum" else 1
    hidden, down = model.sites
    np.testing.assert_allclose(found.values(hidden), np.array([5.0, 2.0]) / 4 / 2**0.5 * tokens, rtol=1e-6)
    np.testing.assert_allclose(found.values(down), np.array([3.0, 2.0]) / 4 / 2**0.5 * tokens, rtol=1e-6)
    assert tiny_models.hook_count(model) == 0


def test_the_stream_is_the_hidden_state_behind_the_layer():
    vlm, prompts, answers = answered("llama")
    sites = vlm.sites.select("language", "down")
    [batch] = vlm.batches(prompts[:1], answers[:1], 1)
    found = score(vlm.model, sites, [batch], NAME)[NAME]
    with torch.no_grad():
        states = vlm.model(**batch.inputs, output_hidden_states=True, use_cache=False).hidden_states
    kept: list[torch.Tensor] = []
    handle = vlm.model.get_submodule(sites[1].path).register_forward_hook(lambda m, a, out: kept.append(out))
    with torch.no_grad():
        batch.losses()
    handle.remove()
    # hidden_states[0] are the embeddings; layer 1 leaves hidden_states[2].
    expected = (kept[0].abs() / states[2].norm(dim=-1, keepdim=True)).mean(1)[0]
    np.testing.assert_allclose(found.values(sites[1]), expected.numpy(), rtol=1e-5)


def test_batches_hooks_and_sites_without_a_stream():
    vlm, prompts, answers = answered("instructblip")
    one = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 1), [NAME, "wanda"])
    before = tiny_models.hook_count(vlm.model)
    both = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), NAME)[NAME]
    assert tiny_models.hook_count(vlm.model) == before
    for site in vlm.sites:
        np.testing.assert_allclose(both.values(site), one[NAME].values(site), rtol=2e-3, atol=1e-6)
        within = site.component in ("language", "vision") and site.reachable
        assert (site.key in one[NAME].sums) or not within, site.key
        assert not within or one[NAME].values(site).max() > 0
    assert "language_projection:down" not in one[NAME].sums
    assert "language_projection:down" in one["wanda"].sums
    # The two banks of a Q-Former's layer have a part of its tokens each.
    assert not any("output_query" in key for key in one[NAME].sums)
    connector = vlm.sites.select("connector")
    with pytest.raises(OptionError, match=f"scorer '{NAME}' scores none of the 1 sites: they are in no layer"):
        score(vlm.model, connector, vlm.batches(prompts, answers, 2), NAME)


def test_a_model_without_layers_is_refused():
    model = ThreeNeurons()
    with pytest.raises(OptionError, match="scores none of the 4 sites"):
        score(model, model.sites, [Numbers(model, [[1.0]])], NAME)


def test_experts_share_the_stream_of_their_layer():
    vlm, prompts, answers = answered("mixtral")
    found = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), [NAME, "activation"])
    assert set(found[NAME].sums) == set(found["activation"].sums) and len(found[NAME].sums) > 8


def test_layers_are_found_by_their_list():
    vlm = tiny_models.llava()
    modules: dict[str, Any] = dict(vlm.model.named_modules())
    paths = {layer_path(s, modules) for s in vlm.sites.select("language")}
    assert paths == {f"model.language_model.layers.{i}" for i in range(3)}
    assert {layer_path(s, modules) for s in vlm.sites.select("connector")} == {None}


def test_a_list_of_mergers_is_no_stack_of_layers():
    """Qwen3-VL's connector has a list of mergers, each with an output of its own that is added nowhere here."""
    vlm, prompts, answers = answered("qwen3_vl")
    found = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), [NAME, "activation"])
    listed = {s.key for s in vlm.sites if "deepstack_merger_list.0" in s.path}
    assert len(listed) == 2 and listed <= set(found["activation"].sums)
    assert not listed & set(found[NAME].sums) and all(s.key in found[NAME].sums for s in vlm.sites.select("vision"))
