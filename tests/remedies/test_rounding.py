"""Rounding: by hand, what it cannot do to any weight, and that what is kept is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.hooks.edit import edited
from lesion.models.discovery import discover
from lesion.remedies.rounding import BITS, BLOCKS, Rounding, entries, kept, largest, layers, rounded
from tests.hooks.test_edit import state
from tests.models.test_families import vlm_of

ROW = [[7.0, 1.0, 2.6, -0.5, -3.5, 0.4, 0.0, -7.0]]
BITES = [(bits, by) for bits in BITS for by in BLOCKS]


def matrix(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """12 rows of 16, of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(12, 16, generator=generator) * 10.0 ** torch.randint(-3, 3, (12, 1), generator=generator)).to(dtype)


def some(seed: int) -> torch.Tensor:
    return torch.rand(12, 16, generator=torch.Generator().manual_seed(seed)) < 0.1


def steps(weight: torch.Tensor, bits: int, by: str) -> torch.Tensor:
    """For each weight the step of its block, worked out by loops."""
    made = torch.empty_like(weight, dtype=torch.float64)
    size = {"row": 16, "group": 4, "tensor": 16}[by]
    for i in range(12):
        for j in range(16):
            start = j // size * size
            block = weight if by == "tensor" else weight[i, start : start + size]
            made[i, j] = block.double().abs().max() / (2 ** (bits - 1) - 1)
    return made


# -- a matrix --------------------------------------------------------------------------------------------------------------
def test_a_row_by_hand():
    """4 bits have the values -7 to 7, of which the largest is 7: the step is 1, and a half goes to the even neighbour."""
    made = rounded(torch.tensor(ROW), 4)
    assert made.tolist() == [[7.0, 1.0, 3.0, -0.0, -4.0, 0.0, 0.0, -7.0]]
    # 3 bits: -3 to 3, step 7/3. 1 is nearer to 0, 2.6 to 7/3, -3.5 is one and a half steps and goes to two, the even one.
    third = torch.tensor(7.0, dtype=torch.float64) / 3
    assert rounded(torch.tensor(ROW), 3).tolist() == [
        [7.0, 0.0, third.float().item(), 0.0, (-2 * third).float().item(), 0.0, 0.0, -7.0]
    ]


def test_groups_have_scales_of_their_own():
    made = rounded(torch.tensor([[7.0, 1.2, 0.7, 0.06], [0.0, 0.0, 70.0, 12.0]]), 4, "group", 2)
    assert torch.allclose(made, torch.tensor([[7.0, 1.0, 0.7, 0.1], [0.0, 0.0, 70.0, 10.0]]))
    whole = rounded(torch.tensor([[7.0, 1.2, 0.7, 0.06], [0.0, 0.0, 70.0, 12.0]]), 4, "tensor")
    assert whole.tolist() == [[10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 70.0, 10.0]]


def test_what_is_kept_may_count_in_the_scale_or_not():
    weight, keep = torch.tensor([[70.0, 7.0, 3.2, -1.1]]), torch.tensor([[True, False, False, False]])
    assert rounded(weight, 4).tolist() == [[70.0, 10.0, 0.0, 0.0]]
    # The kept one is the largest: where it counts, nothing changes.
    assert rounded(weight, 4, keep=keep, counted=True).tolist() == [[70.0, 10.0, 0.0, 0.0]]
    assert rounded(weight, 4, keep=keep).tolist() == [[70.0, 7.0, 3.0, -1.0]]
    small = torch.tensor([[False, False, True, False]])
    assert torch.equal(rounded(weight, 4, keep=small, counted=True), torch.tensor([[70.0, 10.0, 3.2, 0.0]]))
    assert torch.equal(rounded(weight, 4, keep=small), torch.tensor([[70.0, 10.0, 3.2, 0.0]]))


@pytest.mark.parametrize("by", BLOCKS)
@pytest.mark.parametrize("bits", BITS)
@given(seed=st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_it_is_what_a_loop_gives_and_no_weight_moves_by_more_than_half_a_step(bits: int, by: Any, seed: int):
    weight = matrix(seed)
    made, step = rounded(weight, bits, by, 4), steps(weight, bits, by)
    levels = made.double() / step
    assert torch.allclose(levels, levels.round(), atol=1e-4) and levels.abs().max() <= 2 ** (bits - 1) - 1 + 1e-4
    assert ((made.double() - weight.double()).abs() <= step / 2 * (1 + 1e-6)).all()
    by_torch = torch.round(weight.double() / step) * step
    near_a_half = ((weight.double() / step).frac().abs() - 0.5).abs() < 1e-9
    assert torch.allclose(made.double()[~near_a_half], by_torch[~near_a_half], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("bits", "by"), BITES)
def test_what_is_rounded_already_comes_back_bit_by_bit(bits: int, by: Any, dtype: torch.dtype):
    once = rounded(matrix(3, dtype), bits, by, 4)
    assert once.dtype == dtype and torch.equal(rounded(once, bits, by, 4), once)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("bits", "by"), BITES)
def test_what_is_kept_is_kept_to_the_bit_and_the_rest_is_rounded(bits: int, by: Any, counted: bool):
    weight, keep = matrix(5), some(6)
    assert keep.any()
    made = rounded(weight, bits, by, 4, keep, counted)
    assert torch.equal(made[keep], weight[keep])
    # The others are what they would be beside zeros, or beside the weights themselves.
    beside = rounded(weight if counted else weight.masked_fill(keep, 0.0), bits, by, 4)
    assert torch.equal(made[~keep], beside[~keep])
    assert not torch.equal(made[~keep], weight[~keep])


def test_blocks_without_a_step():
    zeros = torch.zeros(2, 4)
    assert torch.equal(rounded(zeros, 4), zeros)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.4]])
    assert torch.equal(rounded(weight, 3, keep=torch.ones(2, 2, dtype=torch.bool)), weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits is 5; expected one of 8, 4, 3"),
        ({"bits": 4, "by": "column"}, "weights are rounded by 'column'; expected one of row, group, tensor"),
        ({"bits": 4, "by": "group", "group": 64}, "groups of 64 do not divide 16 inputs; expected a size that does"),
        ({"bits": 4, "by": "group", "group": 0}, "groups of 0 do not divide"),
    ],
)
def test_how_it_cannot_be_rounded(options: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        rounded(matrix(0), **options)


# -- a model ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "llava"])
def test_a_models_layers_are_rounded_and_every_byte_comes_back(family: str):
    model = vlm_of(family).model
    before, found = state(model), layers(model)
    originals = {path: weight.clone() for path, weight in found.items()}
    with edited(model, [Rounding(4)]):
        for path, weight in layers(model).items():
            assert torch.equal(weight, rounded(originals[path], 4)) and not torch.equal(weight, originals[path]), path
        changed = {name for name, part in state(model).items() if part != before[name]}
        # Of the modules that are no linear layers of the language model, nothing changed.
        assert changed and all(name.rpartition(".")[0] in found and name.endswith(".weight") for name in changed)
    assert state(model) == before
    assert not any("lm_head" in path or "vision" in path or "projector" in path for path in found)


def test_every_linear_layer_of_the_language_model_is_one():
    model = vlm_of("llama").model
    config: Any = model.config
    assert len(layers(model)) == 7 * config.num_hidden_layers


@pytest.mark.parametrize(("family", "role"), [(f, r) for f in ("llama", "gpt2", "phi3") for r in ("down", "hidden")])
def test_what_neurons_are_made_of(family: str, role: str):
    """Without these weights the neuron writes nothing; and no other neuron has any of them."""
    model = vlm_of(family).model
    site = next(s for s in discover(model) if (s.component, s.role) == ("language", role))
    masks = kept(model, NeuronSet([Neuron(site, 1)]))
    found = layers(model)
    width = {path: weight.shape for path, weight in found.items()}
    out = site.path
    if role == "down":
        assert list(masks) == [out] and masks[out].sum() == width[out][1] and masks[out][1].all()
        return
    rows = {path: mask.any(1).nonzero().flatten().tolist() for path, mask in masks.items() if path != out}
    assert masks[out][:, 1].all() and masks[out].sum() == width[out][0]
    expected = {"llama": [[1], [1]], "gpt2": [[1]], "phi3": [[1, 1 + site.width]]}[family]
    assert list(rows.values()) == expected
    assert all(masks[path][rows[path]].all() for path in rows)


def test_kept_neurons_keep_their_weights_in_a_model():
    vlm = vlm_of("llama")
    site = next(s for s in vlm.sites if s.role == "hidden" and s.layer == 1)
    masks = kept(vlm.model, NeuronSet([Neuron(site, 2), Neuron(site, 5)]))
    before = {path: weight.clone() for path, weight in layers(vlm.model).items()}
    rounding = Rounding(3, "tensor", keep=masks)
    with edited(vlm.model, [rounding]):
        for path, weight in layers(vlm.model).items():
            mask = masks.get(path)
            if mask is not None:
                assert torch.equal(weight[mask], before[path][mask])
            assert torch.equal(weight, rounded(before[path], 3, "tensor", keep=mask))
    count = sum(int(m.sum()) for m in masks.values())
    assert rounding.id == f"all linear layers rounded to 3 bits by tensor, {count} weights kept and left out of the scale"


def test_some_layers_alone():
    model = vlm_of("llama").model
    first, second, *_ = layers(model)
    before = {path: weight.clone() for path, weight in layers(model).items()}
    with edited(model, [Rounding(4, only=(second,))]):
        now = layers(model)
        assert torch.equal(now[first], before[first]) and torch.equal(now[second], rounded(before[second], 4))


def test_single_weights_and_the_largest():
    model = vlm_of("llama").model
    found = layers(model)
    path = list(found)[3]
    assert entries(model, [(path, 1, 2), (path, 0, 0)])[path].nonzero().tolist() == [[0, 0], [1, 2]]
    every = torch.cat([weight.abs().flatten() for weight in found.values()]).sort(descending=True).values
    for count in (0, 1, 7, 400):
        masks = largest(model, count)
        assert sum(int(mask.sum()) for mask in masks.values()) == count
        chosen = [found[p][mask].abs() for p, mask in masks.items()]
        assert torch.equal(torch.cat([*chosen, torch.empty(0)]).sort(descending=True).values, every[:count])


def test_of_equally_large_weights_the_first_are_taken():
    model = vlm_of("llama").model
    with edited(model, [Rounding(3, "tensor")]):
        path, weight = next(iter(layers(model).items()))
        most = max(w.abs().max().item() for w in layers(model).values())
        weight[2:4] = most  # more of the largest than are asked for
        masks = largest(model, 3)
        assert list(masks) == [path] and torch.equal(masks[path].nonzero(), (weight.abs() == most).nonzero()[:3])


def test_what_does_not_fit_a_model():
    vlm = vlm_of("llama")
    model, before = vlm.model, state(vlm.model)
    path = next(iter(layers(model)))
    wrong = [
        (Rounding(4, only=("lm_head",)), ModelError, "lm_head is no linear layer of the language model, of which there are"),
        (Rounding(4, keep={path: torch.ones(1, 2, dtype=torch.bool)}), OptionError, r"those to keep are \(1, 2\)"),
        (Rounding(2), OptionError, "bits is 2"),
    ]
    for edit, error, message in wrong:
        with pytest.raises(error, match=message), edited(model, [edit]):
            pass
    with pytest.raises(OptionError, match=r"no linear layer of the language model has a weight x\[0, 0\]"):
        entries(model, [("x", 0, 0)])
    with pytest.raises(OptionError, match="count is -1; the language model has"):
        largest(model, -1)
    head = next(s for s in vlm.sites.select(role="head"))
    with pytest.raises(OptionError, match="is no site of a feed-forward network of the language model; expected gate"):
        kept(model, NeuronSet([Neuron(head, 0)]))
    assert state(model) == before
