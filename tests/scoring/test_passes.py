"""Which passes a scorer is computed in, and modules that are called more than once in a pass: every value by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from lesion.core.importance import Importance
from lesion.core.sites import Site, Sites
from lesion.scoring.options import ScoreOptions
from lesion.scoring.score import score
from lesion.scoring.scorers import CLASS_VALUES, SCORERS, VALUE
from tests.models.test_families import answered
from tests.tiny_models import Numbers, ThreeNeurons

ALONE = ["activation", "superweight", "wanda", VALUE]
"""Scorers that read the activation alone."""


class Twice(nn.Module):
    """One network for ``x`` and for ``x + 1``: y = v . (w x) + 3 v . (w (x + 1)), with w = (1, -2) and v = (1, -0.5)."""

    def __init__(self, second_is_read: bool = True) -> None:
        super().__init__()
        self.second_is_read, self.passes = second_is_read, 0
        self.up, self.out = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(torch.tensor([[1.0], [-2.0]]))
            self.out.weight.copy_(torch.tensor([[1.0, -0.5]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        first, second = self.out(self.up(x)), self.out(self.up(x + 1))
        return first + 3 * second if self.second_is_read else first + 0 * x

    @property
    def sites(self) -> Sites:
        return Sites([Site("up", "language", "up", 0, 2, out="out"), Site("out", "language", "hidden", 0, 2, side="input")])


def values(importance: Importance, role: str = "up") -> list[float]:
    [site] = [s for s in importance.sites if s.role == role]
    return importance.values(site).tolist()


# The only sample has the tokens x = 1, 2. Units of both calls: 1, 2, 2, 3 and -2, -4, -4, -6. Gradients: 1, 1, 3, 3 and half
# of that, negative.
BY_HAND = {
    ("activation", "mean"): [2.0, 4.0], ("activation", "max"): [3.0, 6.0], ("activation", "sum"): [8.0, 16.0],
    ("activation", "last"): [3.0, 6.0], ("superweight", "mean"): [3.0, 6.0], (VALUE, "mean"): [2.0, -4.0],
    ("wanda", "max"): [3.0, 3.0],
    ("gradient", "mean"): [2.0, 1.0], ("gradient", "max"): [3.0, 1.5], ("can", "mean"): [4.5, 4.5], ("can", "max"): [9.0, 9.0],
    ("can", "sum"): [18.0, 18.0], ("can", "last"): [9.0, 9.0], ("taylor", "mean"): [18.0, 18.0],
    # With a noise of 0.5 every number changes by half the weight.
    ("perturbation", "mean"): [0.5, 1.0], ("perturbation", "max"): [0.5, 1.0], ("perturbation", "sum"): [2.0, 4.0],
}  # fmt: skip


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize(("scorer", "how"), list(BY_HAND))
def test_the_tokens_of_both_calls_count_as_if_they_stood_in_a_line(scorer, how, with_gradient):
    model: Any = Twice()
    options = ScoreOptions(aggregate=how, noise=0.5)
    names = [scorer, "gradient"] if with_gradient else [scorer]
    batches = [Numbers(model, [[1.0, 2.0]]), Numbers(model, [[1.0, 2.0]])]
    importance = score(model, model.sites, batches, names, options)[scorer]
    for role in ("up", "hidden"):  # the output of the one module is the input of the other
        assert values(importance, role) == pytest.approx(BY_HAND[scorer, how], rel=1e-6)


def test_padding_of_neither_call_counts():
    model: Any = Twice()
    batch = Numbers(model, [[1.0, 2.0, 7.0], [3.0, 9.0, 9.0]], [[True, True, False], [True, False, False]])
    alone = [Numbers(model, [[1.0, 2.0]]), Numbers(model, [[3.0]])]
    for how in ("mean", "max", "sum", "last"):
        options = ScoreOptions(aggregate=how)
        for names in (["activation"], ["activation", "can", "taylor"]):
            together, parts = (score(model, model.sites, b, names, options) for b in ([batch], alone))
            for name in names:
                assert values(together[name]) == pytest.approx(values(parts[name]), rel=1e-6)


@pytest.mark.parametrize(("names", "passes"), [(["activation"], 4), (["can"], 3), (["perturbation"], 4)])
def test_a_pass_without_gradients_is_run_again_once(names, passes):
    """That a module is called twice is known at its second call; the batches after it are run once."""
    model: Any = Twice()
    score(model, model.sites, [Numbers(model, [[1.0]])] * 3, names)
    assert model.passes == passes


def test_a_call_that_the_loss_does_not_read_counts_with_a_gradient_of_0():
    model: Any = Twice(second_is_read=False)
    batch = Numbers(model, [[1.0, 2.0]])
    alone = score(model, model.sites, [batch], ["activation"])["activation"]
    shared = score(model, model.sites, [batch], ["activation", "gradient", "can"])
    assert values(alone) == values(shared["activation"]) == [2.0, 4.0]
    assert values(shared["gradient"]) == [0.5, 0.25]
    assert values(shared["can"]) == [0.75, 0.75]


# -- no backward pass where none is needed -----------------------------------------------------------------------------------
def test_scorers_that_read_activations_alone_run_no_backward_pass_and_give_the_same():
    vlm, prompts, answers = answered("llava")
    names = [*ALONE, *CLASS_VALUES.values()]
    shared = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), [*names, "gradient"])
    graphs: list[bool] = []
    module: Any = vlm.model.get_submodule(vlm.sites.select("language", "down")[0].path)
    handle = module.register_forward_hook(lambda m, args, out: graphs.append(out.requires_grad or torch.is_grad_enabled()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", lambda *_, **__: pytest.fail("a backward pass is run"))
        alone = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), names)
        alpha_0 = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), "can", ScoreOptions(alpha=0.0))
    handle.remove()
    assert graphs == [False, False], "one pass each, without a graph"
    for site in (s for s in vlm.sites if s.reachable):
        for name in names:
            np.testing.assert_allclose(alone[name].values(site), shared[name].values(site), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(alpha_0["can"].values(site), alone["activation"].values(site))
        np.testing.assert_array_equal(alone["activation"].consistency(site), shared["activation"].consistency(site))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the embeddings need no gradient, and the hook only counts
def test_what_a_pass_costs_is_what_is_said():
    """Each scorer by itself, on one sample: forward and backward passes counted, beside what the table of scorers says."""
    for name, scorer in SCORERS.items():
        if scorer.needs == "residual":
            continue  # there is no stream here, see test_output_share.py
        model: Any = ThreeNeurons()
        model.mlp.act_fn = ACT2FN["linear"]  # relevance asks for one
        forwards, backwards = [], []
        model.register_forward_hook(lambda m, a, out, seen=forwards: seen.append(len(out)))
        model.mlp.down_proj.register_full_backward_hook(lambda m, i, o, seen=backwards: seen.append(1))
        score(model, model.sites, [Numbers(model, [[1.0]])], name)
        assert (sum(forwards), len(backwards)) == scorer.passes(ScoreOptions(), sites=len(model.sites)), name


def test_one_scorer_can_be_given_by_its_name():
    model = ThreeNeurons()
    one, many = (score(model, model.sites, [Numbers(model, [[1.0, 2.0]])], names) for names in ("can", ["can"]))
    assert list(one) == ["can"]
    for site in model.sites:
        np.testing.assert_array_equal(one["can"].values(site), many["can"].values(site))


def test_the_pass_that_sees_the_residual_stream_is_one_forward():
    vlm, prompts, answers = answered("llava")
    graphs: list[bool] = []
    module: Any = vlm.model.get_submodule(vlm.sites.select("language", "down")[0].path)
    handle = module.register_forward_hook(lambda m, args, out: graphs.append(out.requires_grad or torch.is_grad_enabled()))
    score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), "output-share")
    handle.remove()
    assert graphs == [False] and SCORERS["output-share"].passes(ScoreOptions()) == (1, 0)
