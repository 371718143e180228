"""Samples whose loss, activations or gradients are not finite are left out of the scores, and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lesion.core.errors import DataError
from lesion.scoring.score import score
from tests.scoring.test_score import by_role
from tests.tiny_models import Numbers, ThreeNeurons


def test_a_sample_whose_loss_is_not_finite_is_left_out():
    model = ThreeNeurons()
    good = score(model, model.sites, [Numbers(model, [[1.0], [2.0]])], ["can"])["can"]
    for bad in (float("nan"), float("inf")):
        found = score(model, model.sites, [Numbers(model, [[1.0], [bad], [2.0]])], ["can"])["can"]
        assert found.samples == 2
        for role, values in by_role(found).items():
            np.testing.assert_array_equal(values, by_role(good)[role])
    with pytest.raises(DataError, match="none of the 1 samples has a finite loss"):
        score(model, model.sites, [Numbers(model, [[float("nan")]])], ["can"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["gradient", "activation"])
def test_a_sample_with_a_gradient_or_an_activation_that_is_not_finite_is_left_out(what, value):
    """As in float16, where a backward pass can overflow though the loss is finite."""
    model = ThreeNeurons()
    good = score(model, model.sites, [Numbers(model, [[1.0], [2.0]])], ["can", "activation"])
    mlp: Any = model.mlp

    def spoil(x: torch.Tensor) -> torch.Tensor:
        bad = (torch.arange(len(x)) == 1).view(-1, *[1] * (x.ndim - 1))
        return torch.where(bad, torch.full_like(x, value), x)

    if what == "activation":
        handle = mlp.gate_proj.register_forward_hook(lambda _, __, output: spoil(output))
    else:
        handle = mlp.down_proj.register_forward_pre_hook(lambda _, args: args[0].register_hook(spoil) and None)
    try:
        found = score(model, model.sites, [Numbers(model, [[1.0], [3.0], [2.0]])], ["can", "activation"])
    finally:
        handle.remove()
    for name in ("can", "activation"):
        assert found[name].samples == 2
        for role, values in by_role(found[name]).items():
            np.testing.assert_array_equal(values, by_role(good[name])[role])
