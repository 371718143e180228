"""Who writes a channel, and what the gradient promises with others masked: by hand."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Sites
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import Zero
from lesion.scoring.score import score
from lesion.scoring.steepest import promised_rise
from lesion.scoring.writers import Writer, Writers, out_weight, writers
from tests import tiny_models
from tests.tiny_models import BUILDERS, Numbers, ThreeNeurons


def peaks(model: ThreeNeurons):
    return score(model, model.sites, [Numbers(model, [[1.0, 2.0]])], "superweight")["superweight"]


def test_strengths_by_hand():
    """h = (x^2, 2 x^2, -1.5 x^2), at most (4, 8, -6), and W = (1, -0.5, 2): units write up to 4, 4 and 12."""
    model = ThreeNeurons()
    _, _, hidden, down = model.sites
    found = writers(model, [hidden], peaks(model))
    assert found.of(("language", 0)) == [Writer(Neuron(hidden, i), s) for i, s in ((2, 12.0), (0, 4.0), (1, 4.0))]
    assert found.groups(2) == [[Neuron(hidden, 2), Neuron(hidden, 0)]]
    own = writers(model, [down], peaks(model))
    assert own.of(("language", 0)) == [Writer(Neuron(down, 0), 12.0)], "y = (1 - 1 - 3) x^2, at most 12 in size"
    assert own.groups(2) == [], "one writer is no group"


def test_gates_and_ups_are_sized_by_their_unit():
    model = ThreeNeurons()
    for site in model.sites[:2]:
        found = writers(model, [site], peaks(model)).of(("language", 0))
        assert [(w.neuron.site, w.neuron.index, w.strength) for w in found] == [(site, 2, 12.0), (site, 0, 4.0), (site, 1, 4.0)]


def test_only_the_strongest_of_a_site_are_listed():
    model = ThreeNeurons()
    assert [w.neuron.index for w in writers(model, [model.sites[2]], peaks(model), each=1).of(("language", 0))] == [2]


def test_a_neuron_belongs_to_the_channel_that_it_writes_most():
    site = ThreeNeurons().sites[2]
    a, b, c = (Neuron(site, i) for i in range(3))
    found = Writers({
        ("language", 0): [Writer(a, 1.0), Writer(b, 5.0)], ("language", 1): [Writer(a, 3.0), Writer(b, 2.0)],
        ("language", 2): [Writer(a, 0.1)],
    })  # fmt: skip
    assert found.channel_of(a) == ("language", 1) and found.channel_of(b) == ("language", 0) and found.channel_of(c) is None
    assert found.groups(3) == [[a, b], [b, a]], "first the channel whose second writer is strongest"


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_every_site_of_a_model_has_a_weight_or_is_what_is_written(family):
    vlm = BUILDERS[family]()
    for site in vlm.sites:
        weight = out_weight(vlm.model, site)
        assert (weight is None) == (site.role == "down")
        assert weight is None or weight.shape[1] == site.width * site.group


@pytest.mark.parametrize("masked", [(), (2,), (0, 1)])
@pytest.mark.parametrize("role", ["gate", "hidden"])
def test_the_promise_is_kept_where_the_loss_is_linear(role, masked):
    """Of tokens 1 and -2, x^2 is 5 together: units write 5, -5 and -15, and the loss changes by the negative of that.

    What is masked already promises nothing, and the rest the same as before: y is the sum of what units write.
    """
    model = ThreeNeurons()
    site = next(s for s in model.sites if s.role == role)
    already = NeuronSet(Neuron(site, i) for i in masked)
    within = mask(model, already, Zero()) if masked else nullcontext()
    rises = promised_rise(model, Sites([site]), [Numbers(model, [[1.0, -2.0]])], within)
    np.testing.assert_allclose(rises[site], [0.0 if i in masked else r for i, r in enumerate((-5.0, 5.0, 15.0))], atol=1e-6)
    assert tiny_models.hook_count(model) == 0 and all(p.requires_grad for p in model.parameters())
