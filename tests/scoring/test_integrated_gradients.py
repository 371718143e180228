"""Integrated gradients: a saturated loss by hand, completeness on a model in float64, and both paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site, Sites
from lesion.hooks.intervene import mask
from lesion.models.handle import frozen
from lesion.scoring.integrated_gradients import along_path
from lesion.scoring.options import ScoreOptions
from lesion.scoring.score import score
from tests import tiny_models
from tests.models.test_families import answered
from tests.tiny_models import Numbers, ThreeNeurons

NAME = "integrated-gradients"


class Saturated(nn.Module):
    """y = min(h1, 1) + h2 / 4 with h = (4 x, x): the first unit matters most, and its gradient at the intact model is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(1, 2, bias=False), nn.Identity()
        with torch.no_grad():
            self.up.weight.copy_(torch.tensor([[4.0], [1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.up(x)
        return h[..., :1].clamp(max=1) + h[..., 1:] / 4

    @property
    def sites(self) -> Sites:
        return Sites([Site("up", "language", "up", 0, 2)])


def test_a_saturated_unit_by_hand():
    """x = 1: h = (4, 1). Scaled by t the loss is min(4 t, 1) + t / 4, so the first unit's gradient is 1 up to t = 1/4.

    With 4 midpoints (1/8, 3/8, 5/8, 7/8) only the first sees it: IG is 4 * 1/4 = 1, exactly what the unit adds to the loss.
    With 2 midpoints (1/4, 3/4) it is 4 * 1/2 = 2 (torch's gradient of a clamp is 1 at its end), and with one it is 0. The
    second unit's gradient is 1/4 everywhere.
    """
    model = Saturated()
    for steps, expected in ((4, 1.0), (2, 2.0), (1, 0.0)):
        found = score(model, model.sites, [Numbers(model, [[1.0]])], NAME, ScoreOptions(ig_steps=steps))[NAME]
        np.testing.assert_allclose(found.values(model.sites[0]), [expected, 0.25], rtol=1e-6)
        assert found.options == {"positions": "all", "ig_steps": steps, "ig_path": "layer"}
    taylor = score(model, model.sites, [Numbers(model, [[1.0]])], "taylor")["taylor"]
    np.testing.assert_allclose(taylor.values(model.sites[0]), [0.0, 0.25])


def test_both_paths_by_hand():
    """Of y = sum of w g u with g = (x, 2x, -3x), u = (x, x, x/2), w = (1, -0.5, 2): w g u = x^2 (1, -1, -3).

    One site at a time, the loss is linear in it: IG is |w g u| = x^2 (1, 1, 3) at gate, at up and at hidden, and 3 x^2 at
    down. All at once: gate, up, hidden and down scaled by t give t^4 w g u, of which each site's derivative has t^3 w g u. Its
    integral is a quarter; the midpoint rule with two steps gives (1/64 + 27/64) / 2 = 7/32. Tokens 1 and 2 add up to x^2 = 5.
    """
    model = ThreeNeurons()
    batch = Numbers(model, [[1.0, 2.0]])
    for options, share in ((ScoreOptions(ig_steps=2), 1.0), (ScoreOptions(ig_steps=2, ig_path="all"), 7 / 32)):
        found = score(model, model.sites, [batch], NAME, options)[NAME]
        for site in model.sites:
            whole = [15.0] if site.role == "down" else [5.0, 5.0, 15.0]
            np.testing.assert_allclose(found.values(site), np.array(whole) * share, rtol=1e-6)


def test_signs_cancel_over_tokens_and_steps_before_the_size_is_taken():
    """y = sum of (h - 1)^2 with h = x = 1 at one token and 2 at the other, t = 1/4 and 3/4: a dy/dh = 2 x (t x - 1).

    Token 1: 2 (-3/4) and 2 (-1/4), mean -1. Token 2: 4 (-1/2) and 4 (1/2), mean 0. Together -1: L(intact) - L(masked) = 1 - 2.
    """

    class Square(Saturated):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.up.weight.copy_(torch.tensor([[1.0], [0.0]]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.up(x)[..., :1] - 1) ** 2

    model = Square()
    found = score(model, model.sites, [Numbers(model, [[1.0, 2.0]])], NAME, ScoreOptions(ig_steps=2))[NAME]
    np.testing.assert_allclose(found.values(model.sites[0]), [1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("path", ["layer", "all"])
def test_completeness(path):
    """The signed IG of what is scaled add up to the intact model's loss less the masked one's, better with more steps."""
    vlm = tiny_models.llava()
    vlm.model.double()
    prompt = vlm.prompt(tiny_models.samples(1)[0], "What do you see?")
    [batch] = vlm.batches([prompt], [vlm.encode("a big red car .")], 1)
    sites = vlm.sites.select("language", "down")
    groups = [[s] for s in sites] if path == "layer" else [list(sites)]

    def loss(masked: list[Site]) -> float:
        members = NeuronSet.from_arrays({s: np.arange(s.width) for s in masked})
        with torch.no_grad(), mask(vlm.model, members):
            return float(batch.losses())

    errors = []
    with frozen(vlm.model):
        effects = [loss([]) - loss(group) for group in groups]
        for steps in (1, 4, 16, 64):
            signed = dict.fromkeys((s.key for s in sites), 0.0)

            def see(site: Site, pairs: Any, signed: dict[str, float] = signed, steps: int = steps) -> None:
                signed[site.key] += sum(float((a * g).double().sum()) for a, g in pairs) / steps

            usable = along_path(vlm.model, sites, batch, ScoreOptions(ig_steps=steps, ig_path=path), see)
            assert usable.tolist() == [True]
            sums = [sum(signed[s.key] for s in group) for group in groups]
            errors.append(max(abs(s - e) for s, e in zip(sums, effects, strict=True)))
    assert max(map(abs, effects)) > 0.05, "nothing happens here"
    assert errors[-1] < 1e-3 * max(map(abs, effects)) and errors[-1] < errors[1] < errors[0], errors


def test_batches_and_hooks():
    vlm, prompts, answers = answered("llava")
    sites = vlm.sites.select("language", "hidden")
    options = ScoreOptions(ig_steps=2)
    one = score(vlm.model, sites, vlm.batches(prompts, answers, 1), NAME, options)[NAME]
    before = tiny_models.hook_count(vlm.model)
    both = score(vlm.model, sites, vlm.batches(prompts, answers, 2), NAME, options)[NAME]
    assert tiny_models.hook_count(vlm.model) == before and one.samples == both.samples == 2
    for site in sites:
        np.testing.assert_allclose(both.values(site), one.values(site), rtol=2e-3, atol=1e-6)
        assert one.consistency(site).max() <= 1 and sum(one.consistency(s).sum() for s in sites) > 0


def test_experts_and_fused_projections_are_scaled_by_themselves():
    """What an expert or a slice of a fused projection is given is scaled, and no other: completeness for one neuron each."""
    for family, role in (("mixtral", "gate"), ("phi3", "up")):
        vlm, prompts, answers = answered(family)
        [batch] = vlm.batches(prompts[:1], answers[:1], 1)
        signed: dict[str, float] = {}

        def see(site: Site, pairs: Any, signed: dict[str, float] = signed) -> None:
            signed[site.key] = signed.get(site.key, 0.0) + sum(float((a * g).sum()) for a, g in pairs) / 64

        with vlm.prepared():
            with torch.no_grad():
                intact = float(batch.losses())
            # The last layer's: what is scaled there changes no router.
            sites = Sites(s for s in vlm.sites.select("language", role) if s.layer == 1)
            along_path(vlm.model, sites, batch, ScoreOptions(ig_steps=64), see)
            assert len(signed) >= 1
            for key, found in signed.items():
                site = sites.get(key)
                assert site is not None
                with torch.no_grad(), mask(vlm.model, NeuronSet.from_arrays({site: np.arange(site.width)})):
                    effect = intact - float(batch.losses())
                assert found == pytest.approx(effect, rel=0.02, abs=2e-4), key
            assert max(map(abs, signed.values())) > 1e-3


def test_a_site_that_is_not_run_is_not_scored():
    """As an expert that is given no token: its part of the path has no gradient, and the other sites are scored."""

    class Idle(Saturated):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(1, 2)

        @property
        def sites(self) -> Sites:
            return Sites([*super().sites, Site("idle", "language", "up", 1, 2)])

    model = Idle()
    found = score(model, model.sites, [Numbers(model, [[1.0]])], NAME, ScoreOptions(ig_steps=4))[NAME]
    assert list(found.sums) == ["up:up"]
    np.testing.assert_allclose(found.values(model.sites[0]), [1.0, 0.25], rtol=1e-6)


def test_a_row_whose_loss_overflows_on_the_way_is_left_out():
    """y = 1 / (t h - 0.5) with h = x is infinite for x = 2 at the first of the steps t = 1/4 and 3/4, and at no other.

    For x = 1 the gradient -1 / (t - 0.5)^2 is -16 at both.
    """

    class Pole(Saturated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 / (self.up(x)[..., 1:] - 0.5)

    model = Pole()
    found = score(model, model.sites, [Numbers(model, [[2.0], [1.0]])], [NAME], ScoreOptions(ig_steps=2))[NAME]
    assert found.samples == 1
    np.testing.assert_allclose(found.values(model.sites[0]), [0.0, 16.0], rtol=1e-6)
