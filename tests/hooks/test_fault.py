"""Wrong bits, against numbers taken apart with struct; and what stands behind them: ranges."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lesion.core.errors import OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.edit import edited
from lesion.hooks.fault import ACTIONS, BITS, ActivationFault, RangeCheck, RangedFault, WeightFault, faulty, within
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import Where, get_intervention
from lesion.models.tokens import FIRST, IMAGE, TEXT
from tests.hooks.test_edit import One, state
from tests.models.test_families import vlm_of
from tests.tiny_models import ThreeNeurons

FLOATS = ("fp32", "fp16", "bf16")


# -- an independent reference: whole numbers of Python -----------------------------------------------------------------
def to_bits(value: float, format: str) -> int:
    if format == "fp16":
        with np.errstate(over="ignore"):
            return int(np.float32(value).astype(np.float16).view(np.uint16))
    [bits] = struct.unpack("<I", struct.pack("<f", value))
    if format == "bf16":  # the upper half, rounded to the nearest, ties to even
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return bits


def from_bits(bits: int, format: str) -> float:
    if format == "fp16":
        return struct.unpack("<e", struct.pack("<H", bits))[0]
    return struct.unpack("<f", struct.pack("<I", bits << 16 if format == "bf16" else bits))[0]


def changed(bits: int, bit: int, action: str) -> int:
    return {"flip": bits ^ 1 << bit, "stuck-at-1": bits | 1 << bit, "stuck-at-0": bits & ~(1 << bit), "zero": 0}[action]


def reference(value: float, bit: int, action: str, format: str, scale: float = 1.0) -> float:
    if format != "int8":
        return from_bits(changed(to_bits(value, format), bit, action), format)
    stored = 0 if scale == 0 else max(-127, min(127, round(float(np.float32(value) / np.float32(scale)))))
    wrong = changed(stored & 0xFF, bit, action)
    return float(np.float32(wrong - 256 if wrong > 127 else wrong) * np.float32(scale))


def is_same(found: float, expected: float) -> bool:
    if math.isnan(found) or math.isnan(expected):
        return math.isnan(found) and math.isnan(expected)
    return found == expected and math.copysign(1, found) == math.copysign(1, expected)


VALUES = [0.0, -0.0, 1.0, -1.5, 3.0e-3, 2.0**-20, 1e-41, 65504.0, 7e4, -3e38, math.inf, -math.inf, 0.1, 255.0]


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_bit_of_every_action_by_the_reference(format, action):
    for bit in range(BITS[format]):
        found = faulty(torch.tensor(VALUES), bit, action, format).tolist()
        for value, one in zip(VALUES, found, strict=True):
            expected = 0.0 if action == "zero" else reference(value, bit, action, format)
            assert is_same(one, expected), (value, bit, one, expected)


@given(st.floats(width=32, allow_nan=False), st.sampled_from(FLOATS), st.sampled_from(ACTIONS[:3]), st.data())
def test_any_number_by_the_reference(value, format, action, data):
    bit = data.draw(st.integers(0, BITS[format] - 1))
    assert is_same(faulty(torch.tensor([value]), bit, action, format).item(), reference(value, bit, action, format))


@given(st.integers(0, 2**32 - 1), st.integers(0, 31), st.sampled_from(ACTIONS[:3]))
def test_any_pattern_of_fp32_to_the_bit(pattern, bit, action):
    """NaN with any payload too."""
    value = torch.from_numpy(np.array([pattern], dtype=np.uint32).view(np.float32))
    found = int(faulty(value, bit, action).numpy().view(np.uint32)[0])
    assert found == changed(pattern, bit, action)
    assert int(value.numpy().view(np.uint32)[0]) == pattern, "the numbers themselves stay"


@pytest.mark.parametrize(("dtype", "format"), [(torch.float32, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")])
def test_a_bit_flipped_twice_is_as_it_was_and_a_stuck_one_stays_stuck(dtype, format):
    values = (torch.randn(64, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    for bit in range(BITS[format]):
        once = faulty(values, bit, "flip", format)
        assert (once != values).all() and once.dtype == dtype
        assert torch.equal(faulty(once, bit, "flip", format), values)
        for action in ("stuck-at-0", "stuck-at-1"):
            stuck = faulty(values, bit, action, format)
            assert ((stuck == values) ^ (stuck == once) | once.isnan()).all()
            again = faulty(stuck, bit, action, format)
            assert torch.equal(again.view(torch.uint8), stuck.view(torch.uint8))


@pytest.mark.parametrize(("format", "sign", "exponent"), [("fp32", 31, 30), ("fp16", 15, 14), ("bf16", 15, 14)])
def test_the_sign_and_the_top_of_the_exponent(format, sign, exponent):
    assert faulty(torch.tensor([1.5, -2.0, 0.0]), sign, "flip", format).tolist() == [-1.5, 2.0, 0.0]
    assert faulty(torch.tensor([1.5, -2.0]), sign, "stuck-at-1", format).tolist() == [-1.5, -2.0]
    # 1.0 has all bits of its exponent but the top one, 1.5 a mantissa besides, 2.0 the top one alone.
    one, more, two = faulty(torch.tensor([1.0, 1.5, 2.0]), exponent, "flip", format).tolist()
    assert one == math.inf and math.isnan(more) and two == 0.0


# -- int8 --------------------------------------------------------------------------------------------------------------
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=8), st.integers(0, 7), st.sampled_from(ACTIONS[:3]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_int8_by_the_reference(row, bit, action, dtype):
    values = torch.tensor(row).to(dtype)
    scale = values.abs().max().float() / 127
    found = faulty(values, bit, action, "int8", scale)
    assert found.dtype == dtype
    for value, one in zip(values.tolist(), found.tolist(), strict=True):
        expected = reference(value, bit, action, "int8", scale.item())
        assert one == torch.tensor(expected).to(dtype).item(), (value, one, expected)


def test_int8_by_hand():
    """A scale of 1/2: 3.0 is stored as 6, which is 110; -3.0 as 11111010; -63.5 as 10000001."""
    values, scale = torch.tensor([3.0, -3.0, -63.5, 63.5]), torch.tensor(0.5)
    assert faulty(values, 0, "flip", "int8", scale).tolist() == [3.5, -2.5, -64.0, 63.0]
    assert faulty(values, 7, "flip", "int8", scale).tolist() == [-61.0, 61.0, 0.5, -0.5]
    assert faulty(values, 6, "stuck-at-0", "int8", scale).tolist() == [3.0, -35.0, -63.5, 31.5]
    assert faulty(values, 6, "stuck-at-1", "int8", scale).tolist() == [35.0, -3.0, -31.5, 63.5]
    assert faulty(values, 6, "zero", "int8", scale).tolist() == [0.0] * 4


def test_a_row_of_zeros_in_int8_has_no_size_that_a_bit_could_have():
    assert faulty(torch.zeros(3), 6, "flip", "int8", torch.tensor(0.0)).tolist() == [0.0] * 3
    model = Matrix([[0.0, 0.0], [1.0, 127.0]])
    with edited(model, [WeightFault("inner.weight", (0, 1), 6, "flip", "int8")]):
        assert model.inner.weight.tolist() == [[0.0, 0.0], [1.0, 127.0]]
    with edited(model, [WeightFault("inner.weight", (1, 0), 6, "flip", "int8")]):
        assert model.inner.weight.tolist() == [[0.0, 0.0], [65.0, 127.0]]


class Matrix(One):
    """With its weight in a layer."""

    def __init__(self, values: list[list[float]]) -> None:
        super().__init__(values, torch.float32)
        self.inner: Any = torch.nn.Linear(len(values[0]), len(values), bias=True)
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor(values))
            self.inner.bias.copy_(torch.arange(len(values)) - 2.0)


def test_the_scale_of_a_row_is_of_what_makes_one_output():
    """In GPT-2's layers a row is a column; a bias is a row by itself."""
    module: Any = (vlm := vlm_of("gpt2")).model.get_submodule("transformer.h.0.mlp.c_fc")
    before, weight = state(vlm.model), module.weight.detach().clone()
    with edited(vlm.model, [WeightFault("transformer.h.0.mlp.c_fc.weight", (2, 5), 7, "flip", "int8")]):
        expected = reference(weight[2, 5].item(), 7, "flip", "int8", (weight[:, 5].abs().max() / 127).item())
        assert module.weight[2, 5].item() == expected
    assert state(vlm.model) == before
    model = Matrix([[1.0], [1.0], [1.0]])  # whose bias is -2, -1, 0
    with edited(model, [WeightFault("inner.bias", (2,), 6, "flip", "int8")]):
        assert model.inner.bias.tolist() == pytest.approx([-2.0, -1.0, 64 * 2 / 127])


# -- in weights --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("action", ACTIONS)
def test_one_weight_is_wrong_and_every_byte_comes_back(dtype, format, action):
    model = One([[1.0, -2.5], [3.0, 0.75]], dtype)
    before = state(model)
    for bit in (0, 6, BITS[format] - 2, BITS[format] - 1):
        with edited(model, [WeightFault("weight", (0, 1), bit, action, format)]):
            expected = 0.0 if action == "zero" else reference(-2.5, bit, action, format)
            assert is_same(model.weight[0, 1].item(), torch.tensor(expected).to(dtype).item())
            others = model.weight.detach().flatten()[[0, 2, 3]]
            assert others.tolist() == [1.0, 3.0, 0.75]
        assert state(model) == before


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("weight", (0, 0), 16, "flip", "bf16"), "bit is 16; a number in bf16 has bits 0 to 15"),
        (("weight", (0, 0), -1, "flip", "fp32"), "bit is -1; a number in fp32 has bits 0 to 31"),
        (("weight", (0, 0), 8, "flip", "int8"), "bit is 8; a number in int8 has bits 0 to 7"),
        (("weight", (0, 0), 0, "melt", "fp32"), "fault is 'melt'; expected one of flip, stuck-at-0, stuck-at-1, zero"),
        (("weight", (0, 0), 0, "flip", "fp8"), "format is 'fp8'; expected one of fp32, fp16, bf16, int8"),
        (("weight", (0, 2), 0, "flip", "fp32"), r"it has no entry \[0, 2\]"),
    ],
)  # fmt: skip
def test_faults_that_there_are_not(fault, message):
    model = One([[1.0, 2.0]], torch.float32)
    before = state(model)
    with pytest.raises(OptionError, match=message), edited(model, [WeightFault(*fault)]):
        pass
    assert state(model) == before


# -- in activations ----------------------------------------------------------------------------------------------------
SITE = Site("a.b", "language", "gate", 0, 8)


def test_what_passes_through_a_neuron_is_wrong():
    """x = 2: hidden 4, 8, -6, whose weights out are 1, -0.5, 2; the sign of the first, then its lowest bit of the exponent."""
    model, x = ThreeNeurons(), torch.tensor([[[2.0]]])
    neuron = NeuronSet([Neuron(next(s for s in model.sites if s.role == "hidden"), 0)])
    faults = [(31, "flip", -20.0), (31, "stuck-at-0", -12.0), (23, "flip", 2 - 4 - 12.0), (9, "zero", -16.0)]
    for bit, action, expected in faults:
        for sets in (neuron, [neuron]):
            with torch.no_grad(), mask(model, sets, ActivationFault(bit=bit, action=action)):
                assert model(x).item() == expected
    with torch.no_grad():
        assert model(x).item() == -12.0


def test_the_bit_of_an_activation_is_a_whole_number_and_there_is_no_int8():
    fault = get_intervention("fault:30")
    assert fault == ActivationFault(bit=30) and isinstance(fault, ActivationFault) and type(fault.bit) is int
    for number in ("1.5", "nan", "inf"):
        with pytest.raises(OptionError, match=f"bit is {number}; expected a whole number"):
            get_intervention(f"fault:{number}")
    with pytest.raises(OptionError, match="bit is 32; a number in fp32 has bits 0 to 31"):
        get_intervention("ranged-fault:32")
    with pytest.raises(OptionError, match="activations have no int8 scale here; take fp32, fp16 or bf16, or faults in weights"):
        ActivationFault(bit=1, format="int8")


def at(low: list[list[float]], high: list[list[float]], classes: list[list[int]]) -> Where:
    bounds = {"low": torch.tensor(low), "high": torch.tensor(high)}
    return Where(SITE, np.arange(len(low[0])), bounds, lambda: torch.tensor(classes))


def test_ranges_of_the_first_token_and_of_all_others():
    where = at([[90.0, -1.0], [-1.0, -1.0]], [[110.0, 1.0], [1.0, 1.0]], [[TEXT, FIRST, IMAGE, TEXT]])
    x = torch.tensor([[[100.0, 0.5], [100.0, 0.5], [-math.inf, math.nan], [math.nan, math.inf]]])
    assert within(x, where).tolist() == [[[1.0, 0.5], [100.0, 0.5], [-1.0, 0.0], [0.0, 1.0]]]
    first = torch.tensor([[[0.0, 0.0], [math.nan, -7.0], [0.0, 0.0], [0.0, 0.0]]])
    assert within(first, where)[0, 1].tolist() == [100.0, -1.0]


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=3, max_size=3), st.integers(0, 31))
def test_behind_a_range_check_everything_is_within(values, bit):
    where = at([[-2.0], [3.0]], [[2.0], [4.0]], [[FIRST, TEXT, IMAGE]])
    x = torch.tensor(values).view(1, 3, 1)
    found = torch.as_tensor(RangedFault(bit=bit).value(x, where)).flatten().tolist()
    assert -2 <= found[0] <= 2 and all(3 <= value <= 4 for value in found[1:])
    plain = faulty(x, bit).flatten().tolist()
    for one, before, (low, high) in zip(found, plain, [(-2, 2), (3, 4), (3, 4)], strict=True):
        assert one == before or not low <= before <= high
    assert torch.equal(torch.as_tensor(RangeCheck().value(x, where)), within(x, where))


def test_ranges_are_for_the_language_model_of_a_decoder():
    vision = Site("v", "vision", "hidden", 0, 8)
    for act in (RangeCheck(), RangedFault(bit=3)):
        with pytest.raises(OptionError, match=r"tells the first token apart, and .* is not in the language model"):
            act.check([SITE, vision])
        with pytest.raises(OptionError, match="is for decoders: this model's prompt is read by an encoder"):
            act.check([SITE], is_encoder_decoder=True)
        act.check([SITE])
    ActivationFault().check([SITE, vision], is_encoder_decoder=True)
