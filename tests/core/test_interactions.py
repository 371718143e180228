"""What two neurons are to each other: by numbers, and in a network of three neurons by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lesion.core.interactions import FLOOR, interplay
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.intervene import mask

NOISE = np.array([-0.02, 0.01, 0.02, -0.01])


@pytest.mark.parametrize(
    ("a", "b", "both", "found"),
    [
        (0.0, 0.0, 3.0, "synergy"), (0.2, 0.1, 1.0, "synergy"), (-0.3, 0.1, 1.0, "synergy"),
        (1.0, 1.0, 1.0, "redundancy"), (2.0, 0.5, 2.1, "redundancy"),
        (3.0, 0.0, 0.1, "masking"), (0.0, 3.0, 0.1, "masking"), (1.0, 1.0, 0.0, "masking"),
        (1.0, 0.5, 1.5, "none"), (1.0, 0.5, 2.0, "none"), (1.0, 0.5, 1.4, "none"), (3.0, 0.0, 2.0, "none"),
        (0.0, 0.0, FLOOR / 2, "none"), (0.0, 0.0, 0.0, "none"),
    ],
)  # fmt: skip
def test_by_numbers(a, b, both, found):
    assert interplay(a + NOISE, b - NOISE, both + NOISE) == found
    assert interplay(b - NOISE, a + NOISE, both + NOISE) == found, "it does not matter which comes first"


def test_what_the_samples_do_not_tell_is_none():
    """The mean is far more, and half of the samples do not show it; or there is one sample alone."""
    assert interplay(np.zeros(4), np.zeros(4), np.array([8.0, 0.0, 0.0, 0.0])) == "none"
    assert interplay(np.zeros(1), np.zeros(1), np.array([8.0])) == "none"


class Three(nn.Module):
    """Units h = (x, x, x) are added up to y; the loss is what the test makes of y."""

    def __init__(self, out: list[float]) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.up.weight.fill_(1.0)
            self.down.weight.copy_(torch.tensor([out]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x))


SITE = Site("down", "language", "hidden", 0, 3, side="input")
X = torch.tensor([[0.98], [1.0], [1.01], [1.02]])


def pairs(out: list[float], loss) -> dict[tuple[int, int], str]:
    """What each two of the three units are to each other."""
    model = Three(out)

    def harm(*indices: int) -> np.ndarray:
        with torch.no_grad():
            before = loss(model(X))[:, 0]
            with mask(model, NeuronSet(Neuron(SITE, i) for i in indices)):
                return (loss(model(X))[:, 0] - before).numpy().astype(float)

    return {(i, j): interplay(harm(i), harm(j), harm(i, j)) for i, j in itertools.combinations(range(3), 2)}


def test_synergy_of_two_that_stand_in_for_each_other():
    """The loss is 0 while one of the first two is there; the third does nothing."""
    found = pairs([1.0, 1.0, 0.0], lambda y: 8 * torch.relu(0.5 - y))
    assert found == {(0, 1): "synergy", (0, 2): "none", (1, 2): "none"}


def test_redundancy_of_two_that_are_both_needed():
    """The loss is 4 as soon as y is less than 1.5, whichever of the first two is missing, and no more when both are."""
    found = pairs([1.0, 1.0, 0.0], lambda y: 4 * torch.clamp(1.5 - y, 0, 0.1) / 0.1)
    assert found == {(0, 1): "redundancy", (0, 2): "none", (1, 2): "none"}


def test_masking_of_two_that_are_in_balance():
    """The first two cancel: without one of them y is far from 0, without both it is 0 again."""
    found = pairs([3.0, -3.0, 0.0], lambda y: y.abs())
    assert found == {(0, 1): "masking", (0, 2): "none", (1, 2): "none"}
