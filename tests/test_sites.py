"""Site discovery against counts worked out by hand, and reachability against gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lesion.errors import ModelError, OptionError
from lesion.models.families import family_of
from lesion.scoring import score
from lesion.sites import discover
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
    config = tiny_models.llava().model.config
    config.vision_feature_layer = layer
    found = {int(p.split("\\.")[-2]) for p in family_of(config).unreachable(config)}
    assert found == dead


def test_select_names_what_there_is():
    sites = tiny_models.llava().sites
    with pytest.raises(OptionError, match=r"qformer.*available: vision, connector, language, all"):
        sites.select("qformer")
    with pytest.raises(OptionError, match=r"gate.*vision.*available there: hidden, down, all"):
        sites.select("vision", "gate")
    assert len(sites.select("vision", reachable_only=True)) == 2 * 3


def test_a_model_without_feed_forward_sites_is_refused():
    with pytest.raises(ModelError, match="no feed-forward site"):
        discover(nn.Sequential(nn.Linear(2, 2)), tiny_models.family({"0": "language"}))


def test_projections_that_do_not_fit_are_refused():
    model = tiny_models.ThreeNeurons()
    model.mlp.up_proj = nn.Linear(1, 2)
    with pytest.raises(ModelError, match=r"mlp do not fit together: widths \(3, 2, 3\)"):
        discover(model, tiny_models.family({"mlp": "language"}))


def test_an_unknown_family_is_named():
    with pytest.raises(ModelError, match=r"'gpt9'.*supported: instructblip, llava"):
        family_of(type("Config", (), {"model_type": "gpt9"}))


def test_every_site_names_a_module_whose_activation_has_its_width(vlm):
    seen: dict[str, int] = {}
    modules = dict(vlm.model.named_modules())
    handles = []
    for site in vlm.sites:
        if site.reads_input:
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
    assert seen == {s.key: s.width for s in vlm.sites}
