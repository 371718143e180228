"""Relevance patching as a scorer: by hand, beside the other gradients, and in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers.activations import ACT2FN

from lesion.core.errors import ModelError
from lesion.scoring.score import score
from tests import tiny_models
from tests.models.test_families import answered
from tests.tiny_models import Numbers, ThreeNeurons


def test_values_worked_out_by_hand():
    """Of y = sum of w g u, w g u = x^2 (1, -1, -3), a unit has all of its relevance, and its gate and up half of it each.

    Tokens 1 and 2 give 5 (1, 1, 3) and for the channel 15; tokens of both signs add up before the size is taken (x^2 does not
    tell). The mean over the samples (1, 2) and (-1, 0) is 3 (1, 1, 3). There are no norms and no activation function.
    """
    model: Any = ThreeNeurons()
    model.mlp.act_fn = ACT2FN["linear"]  # a network without an activation function says so
    batch = Numbers(model, [[1.0, 2.0], [-1.0, 0.0]])
    found = score(model, model.sites, [batch], ["relp", "taylor"])
    for site in model.sites:
        whole = np.array([9.0] if site.role == "down" else [3.0, 3.0, 9.0])
        share = 0.5 if site.role in ("gate", "up") else 1.0
        np.testing.assert_allclose(found["relp"].values(site), share * whole, rtol=1e-6)
        np.testing.assert_allclose(found["taylor"].values(site), whole, rtol=1e-6)
    assert found["relp"].options == {"positions": "all"}


def test_the_other_scorers_do_not_see_the_linearised_model():
    vlm, prompts, answers = answered("llava")
    sites = vlm.sites.select("language")
    alone = score(vlm.model, sites, vlm.batches(prompts, answers, 2), ["can", "taylor"])
    beside = score(vlm.model, sites, vlm.batches(prompts, answers, 2), ["can", "relp", "taylor"])
    for site in sites:
        for name in alone:
            np.testing.assert_array_equal(alone[name].values(site), beside[name].values(site))
        assert not np.allclose(beside["relp"].values(site), beside["taylor"].values(site))
    # A unit, its gate and its up.
    for layer in {s.layer for s in sites}:
        gate, up, hidden = (beside["relp"].values(next(s for s in sites.select("language", r) if s.layer == layer))
                            for r in ("gate", "up", "hidden"))  # fmt: skip
        np.testing.assert_allclose(gate, hidden / 2, rtol=1e-3, atol=1e-8)
        np.testing.assert_allclose(up, hidden / 2, rtol=1e-3, atol=1e-8)


def test_batches_and_hooks():
    vlm, prompts, answers = answered("llava")
    one = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 1), "relp")["relp"]
    before = tiny_models.hook_count(vlm.model)
    both = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), "relp")["relp"]
    assert tiny_models.hook_count(vlm.model) == before
    for site in vlm.sites:
        np.testing.assert_allclose(both.values(site), one.values(site), rtol=2e-3, atol=1e-6)
        assert (one.values(site).max() > 0) == site.reachable, site.key


def test_a_model_that_cannot_be_linearised():
    vlm, prompts, answers = answered("gpt2")
    before = tiny_models.hook_count(vlm.model)
    with pytest.raises(ModelError, match=r"relevance cannot pass transformer.h.1.attn \(GPT2Attention\)"):
        score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), "relp")
    assert tiny_models.hook_count(vlm.model) == before
