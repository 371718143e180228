"""Edits of weights: what they do by hand, that they are what hooks do, and that every byte comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.hooks.edit import BitFlip, MergedMask, WeightEdit, edited
from lesion.hooks.intervene import mask
from lesion.models.vlm import VisionLanguageModel
from tests import tiny_models
from tests.models.test_families import answered, vlm_of


class One(nn.Module):
    """A model of one matrix, with a configuration, as every model of transformers has."""

    def __init__(self, values: list[list[float]], dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.config = nn.Parameter(torch.tensor(values, dtype=dtype)), nn.Module()


def state(model: nn.Module) -> dict[str, bytes]:
    """Every byte, so that -0.0 differs from 0.0 and one NaN from another."""
    return {n: t.detach().contiguous().view(torch.uint8).numpy().tobytes() for n, t in model.state_dict().items()}


# -- bit flips -------------------------------------------------------------------------------------------------------------
# 1.5 has the sign 0, the exponent 0 and the mantissa 100...; bits count from the lowest. bfloat16 has 7 bits of mantissa and 8
# of exponent, float16 has 10 and 5, float32 has 23 and 8.
FLIPS = [
    (torch.float32, 31, -1.5), (torch.float32, 22, 1.0), (torch.float32, 0, 1.5 + 2.0**-23), (torch.float32, 23, 0.75),
    (torch.float32, 30, float("nan")),
    (torch.float16, 15, -1.5), (torch.float16, 9, 1.0), (torch.float16, 0, 1.5 + 2.0**-10), (torch.float16, 10, 0.75),
    (torch.bfloat16, 15, -1.5), (torch.bfloat16, 6, 1.0), (torch.bfloat16, 0, 1.5 + 2.0**-7), (torch.bfloat16, 7, 0.75),
    (torch.bfloat16, 13, 1.5 * 2.0**-64),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "bit", "expected"), FLIPS)
def test_a_flipped_bit_by_hand(dtype, bit, expected):
    model = One([[1.0, 2.0], [3.0, 1.5]], dtype)
    before = state(model)
    with edited(model, [BitFlip("weight", (1, 1), bit)]):
        value = model.weight[1, 1].item()
        assert value == expected or (expected != expected and value != value)
        assert model.weight.detach().float().flatten().tolist()[:3] == [1.0, 2.0, 3.0]
    assert state(model) == before


def test_a_bit_flipped_twice_is_as_it_was():
    model = One([[1.5]], torch.float32)
    with edited(model, [BitFlip("weight", (0, 0), 31), BitFlip("weight", (0, 0), 31)]):
        assert model.weight.item() == 1.5
    with edited(model, [BitFlip("weight", (0, 0), 31), BitFlip("weight", (0, 0), 22)]):
        assert model.weight.item() == -1.0
    assert model.weight.item() == 1.5


def test_negative_zero_and_nan_come_back_to_the_bit():
    model = One([[-0.0, float("nan")]], torch.float32)
    model.weight.data.view(torch.int32)[0, 1] = 0x7FC12345
    before = state(model)
    with edited(model, [BitFlip("weight", (0, 0), 31), BitFlip("weight", (0, 1), 3)]):
        assert state(model) != before
    assert state(model) == before


@pytest.mark.parametrize(
    ("flip", "error", "message"),
    [
        (BitFlip("weigh", (0, 0), 0), ModelError, "no parameter 'weigh'; it has 1, such as 'weight'"),
        (BitFlip("weight", (0,), 0), OptionError, r"weight has shape \(1, 2\); it has no entry \[0\]"),
        (BitFlip("weight", (0, 2), 0), OptionError, r"no entry \[0, 2\]"),
        (BitFlip("weight", (0, -1), 0), OptionError, "no entry"),
        (BitFlip("weight", (0, 1), 16), OptionError, "bit is 16; an entry of weight has 16 bits"),
        (BitFlip("weight", (0, 1), -1), OptionError, "bit is -1"),
    ],
)  # fmt: skip
def test_bits_that_are_not_there(flip, error, message):
    """Nothing is changed, not even by the edits before the wrong one."""
    model = One([[1.0, 2.0]], torch.bfloat16)
    before = state(model)
    with pytest.raises(error, match=message), edited(model, [BitFlip("weight", (0, 0), 15), flip]):
        pass
    assert state(model) == before and not hasattr(model.config, "lesion_edits")


# -- merged masks ----------------------------------------------------------------------------------------------------------
def members(vlm: VisionLanguageModel, role: str) -> NeuronSet:
    sites = vlm.sites.select("language", role)
    return NeuronSet(Neuron(s, i) for s in sites for i in range(1 if role == "head" else 2))


# Phi-3 has gate and up in one module, Llama biases everywhere, GPT-2 the transposed weights, OPT and GPT-2 no gate.
MERGED = [
    ("llama", "gate"), ("llama", "up"), ("llama", "hidden"), ("llama", "down"), ("llama", "head"), ("phi3", "gate"),
    ("phi3", "up"), ("phi3", "head"), ("gpt2", "hidden"), ("gpt2", "down"), ("gpt2", "head"), ("opt", "hidden"),
    ("blip_2_t5", "head"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "role"), MERGED)
def test_a_merged_mask_is_what_hooks_do(family, role):
    vlm, prompts, answers = answered(family)

    def run() -> torch.Tensor:
        return torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers))

    neurons, before, intact = members(vlm, role), state(vlm.model), run()
    with mask(vlm.model, neurons):
        masked = run()
    with edited(vlm.model, [MergedMask(neurons)]):
        merged = run()
        assert state(vlm.model) != before
    # Zero times a column, and a column of zeros: the sums are the same, but for their order.
    torch.testing.assert_close(merged, masked, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(masked, intact, rtol=1e-3, atol=1e-3)
    assert state(vlm.model) == before and torch.equal(run(), intact)


def test_a_down_neuron_is_its_row_and_its_bias():
    vlm = vlm_of("llama")
    site = vlm.sites.select("language", "down")[0]
    module: Any = vlm.model.get_submodule(site.path)
    with torch.no_grad():
        kept = module.bias.clone()
        module.bias.fill_(2.0)
    with edited(vlm.model, [MergedMask(NeuronSet([Neuron(site, 3)]))]):
        assert not module.weight[3].any() and module.weight[2].any()
        assert module.bias.tolist() == [0.0 if i == 3 else 2.0 for i in range(site.width)]
    with torch.no_grad():
        assert module.bias.tolist() == [2.0] * site.width
        module.bias.copy_(kept)


def test_masks_that_cannot_be_merged():
    vlm = vlm_of("mixtral")
    expert = NeuronSet([Neuron(next(s for s in vlm.sites if s.expert is not None), 0)])
    with pytest.raises(ModelError, match=r"is an expert's; masks of experts cannot be merged"), edited(
        vlm.model, [MergedMask(expert)]
    ):
        pass
    gemma = vlm_of("gemma3")
    bare = NeuronSet([Neuron(gemma.sites.select("connector", "down")[0], 0)])
    with pytest.raises(ModelError, match=r"Gemma3MultiModalProjector\) is no linear layer"), edited(
        gemma.model, [MergedMask(bare)]
    ):
        pass


@pytest.mark.parametrize("weight", [torch.zeros(2, 2, dtype=torch.int8), torch.zeros(2, 2, device="meta")])
def test_quantised_and_offloaded_weights_are_refused(weight):
    model = One([[1.0]], torch.float32)
    model.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ModelError, match="weight is offloaded or quantised; expected floating-point weights in memory"), edited(
        model, [BitFlip("weight", (0, 0), 0)]
    ):
        pass


# -- coming back -----------------------------------------------------------------------------------------------------------
def both(vlm: VisionLanguageModel) -> list[WeightEdit]:
    """Two edits that overlap: a bit of a column that is then masked."""
    site = vlm.sites.select("language", "hidden")[0]
    return [BitFlip(f"{site.path}.weight", (0, 4), 31), MergedMask(NeuronSet([Neuron(site, 4), Neuron(site, 5)]))]


def test_every_byte_comes_back_also_when_the_body_raises():
    vlm = tiny_models.llava()
    before, identity = state(vlm.model), vlm.identity()
    with pytest.raises(ZeroDivisionError), edited(vlm.model, both(vlm)):
        assert state(vlm.model) != before
        raise ZeroDivisionError
    assert state(vlm.model) == before and vlm.identity() == identity and not hasattr(vlm.model.config, "lesion_edits")


def test_every_byte_comes_back_when_an_edit_fails_half_way():
    class Broken(MergedMask):
        def apply(self, model: nn.Module) -> None:
            super().apply(model)
            raise ZeroDivisionError

    vlm = tiny_models.llava()
    before = state(vlm.model)
    flip, masked = both(vlm)
    assert isinstance(masked, MergedMask)
    with pytest.raises(ZeroDivisionError), edited(vlm.model, [flip, Broken(masked.neurons)]):
        pass
    assert state(vlm.model) == before


def test_the_identity_lists_the_edits_meanwhile():
    vlm = tiny_models.llava()
    intact, edits = vlm.identity(), both(vlm)
    assert intact.edits == ()
    with edited(vlm.model, edits[:1]):
        first = vlm.identity()
        with edited(vlm.model, edits[1:]):
            assert vlm.identity().edits == tuple(e.id for e in edits)
        assert vlm.identity() == first and first.edits == (edits[0].id,) and first.differs_from(intact)
    assert vlm.identity() == intact
    path = vlm.sites.select("language", "hidden")[0].path
    assert edits[0].id == f"flip {path}.weight[0, 4] bit 31"
    assert edits[1].id.startswith("mask of 2 neurons ")


def test_weights_that_ask_for_gradients_still_do():
    model = One([[1.0]], torch.float32)
    with edited(model, [BitFlip("weight", (0, 0), 31)]):
        assert model.weight.requires_grad
    assert model.weight.requires_grad and model.weight.grad_fn is None
