"""Discovery beyond feed-forward networks: layers of modules with any name, heads that can be read, sites of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.intervene import mask
from lesion.models import discovery
from lesion.models.attention import heads
from lesion.models.discovery import discover, register_sites
from lesion.models.structure import layer_of
from tests import tiny_models
from tests.models.test_families import built


# -- layers ------------------------------------------------------------------------------------------------------------------
class Stacked(nn.Module):
    """Networks in a list with an unusual name, which holds a list itself; a chain of modules is no list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList([_network(), _network()]) for _ in range(3))
        self.chain = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.alone = _network()


def _network() -> nn.Module:
    network = nn.Module()
    network.fc1, network.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)
    return network


def test_a_layer_is_the_place_in_the_outermost_list():
    model: Any = Stacked()
    modules = dict(model.named_modules())
    assert layer_of("stages.2.1.fc2", modules) == 2 and layer_of("stages.0.1.fc1", modules) == 0
    assert layer_of("chain.2", modules) == 0 and layer_of("alone.fc2", modules) == 0
    layers = {(s.path, s.layer) for s in discover(model, tiny_models.all_language())}
    assert layers == {
        *((f"stages.{i}.{j}.fc2", i) for i in range(3) for j in range(2)), ("chain.2", 0), ("alone.fc2", 0),
    }  # fmt: skip


# -- heads -------------------------------------------------------------------------------------------------------------------
def attention(out: str, inside: str = "q_proj", **about: Any) -> nn.Module:
    """A module that looks like attention with 12 channels."""
    module = nn.Module()
    for name in (inside, out):
        setattr(module, name, nn.Linear(12, 12))
    for name, value in about.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (attention("o_proj", head_dim=4), [(3, 4)]), (attention("out_proj", num_heads=2), [(2, 6)]),
        (attention("proj", inside="qkv", num_heads=6, dim=12), [(6, 2)]),
        # Multi-head latent attention: what is said of a head's size is that of its query.
        (attention("o_proj", num_heads=3, head_dim=5), [(3, 4)]),
        (attention("o_proj", inside="q", n_heads=4, key_value_proj_dim=3), [(4, 3)]),
        # Passed over: a size that does not fit, none, no out-projection, and what is no attention.
        (attention("o_proj", head_dim=5), []), (attention("proj", inside="qkv", groups=2), []),
        (attention("result", head_dim=4), []), (attention("o_proj", inside="gate", head_dim=4), []),
    ],
)
def test_the_number_of_heads_is_read_or_passed_over(module, expected):
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Module(), module])
    sites = list(heads(model, tiny_models.all_language()))
    assert [(s.width, s.group) for s in sites] == expected
    assert all(s.layer == 1 and s.role == "head" and s.side == "input" and s.whole == 12 for s in sites)


# -- one's own ---------------------------------------------------------------------------------------------------------------
def test_a_kind_of_site_of_ones_own(monkeypatch):
    """The channels of the embeddings: discovered, chosen by their role, masked; left out of ``all``."""
    monkeypatch.setattr(discovery, "KINDS", dict(discovery.KINDS))

    @register_sites("embedding")
    def embeddings(model, structure):
        module = model.get_input_embeddings()
        path = next(name for name, m in model.named_modules() if m is module)
        yield Site(path, "language", "embedding", 0, module.embedding_dim)

    vlm = tiny_models.llava()
    [site] = vlm.sites.select("language", "embedding")
    assert site.width == tiny_models.WIDTH and site not in vlm.sites.select("language")
    ids = torch.tensor([[2, 5, 6]])
    with torch.no_grad(), mask(vlm.model, NeuronSet([Neuron(site, 3)])):
        assert not vlm.model.get_input_embeddings()(ids)[..., 3].any()
    for taken in ("embedding", "head", "gate"):
        with pytest.raises(ValueError, match=f"a kind of site with the role '{taken}' is there already"):
            register_sites(taken)(embeddings)
    assert "embedding" in discovery.KINDS


def test_kinds_are_those_of_the_package():
    assert list(discovery.KINDS) == ["head"]
    assert {s.role for s in discover(built("llama").model)} == {"gate", "up", "hidden", "down", "head"}
