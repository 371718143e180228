"""Copies of critical weights: what is damaged is found and mended, to the bit; a damaged copy mends nothing."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lesion import load
from lesion.core.errors import ModelError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.hooks.clean import CleanWeights, Damage, Restored
from lesion.hooks.edit import BitFlip, edited
from lesion.models.neuron_weights import Line
from lesion.models.vlm import VisionLanguageModel
from tests import tiny_models
from tests.hooks.test_edit import state
from tests.models.test_families import vlm_of
from tests.remedies.test_harden import critical

WHOLE: dict[int, Any] = {2: torch.int16, 4: torch.int32}
FLIPS = 10_000


def flip(model: nn.Module, name: str, index: tuple[int, ...], bit: int) -> None:
    with torch.no_grad():
        BitFlip(name, index, bit).apply(model)


def some(vlm: VisionLanguageModel, role: str = "hidden", layer: int = 0, members: tuple[int, ...] = (1, 4)) -> NeuronSet:
    site = next(s for s in vlm.sites if (s.component, s.role, s.layer) == ("language", role, layer))
    return NeuronSet(Neuron(site, i) for i in members)


def entries(model: nn.Module, copies: CleanWeights) -> list[tuple[Line, tuple[int, ...]]]:
    """Every guarded weight, and the line that it is in."""
    found = []
    for (name, dim), (indices, _) in copies.copies.items():
        shape = model.get_parameter(name).shape
        for i in indices.tolist():
            across = [()] if len(shape) == 1 else [(j,) for j in range(shape[1 - dim])]
            found += [(Line(name, dim, i), (i, *a) if dim == 0 else (*a, i)) for a in across]
    return found


# -- finding and mending -----------------------------------------------------------------------------------------------
def test_every_one_of_ten_thousand_flipped_bits_is_found_and_repaired():
    """One at a time, anywhere in what tiny-llava's planted units are made of."""
    vlm = load("tiny-llava")
    copies = CleanWeights.of(vlm.model, critical(vlm))
    before, bound, rng = state(vlm.model), copies.bound(vlm.model), random.Random(0)
    places, parameters = entries(vlm.model, copies), dict(vlm.model.named_parameters())
    assert (copies.lines, copies.entries, copies.size) == (12, len(places), 4 * len(places))
    found = 0
    for _ in range(FLIPS):
        (line, index), bit = rng.choice(places), rng.randrange(32)
        bits = parameters[line.parameter].detach().view(torch.int32)[index]
        was = int(bits)
        bits ^= -(2**31) if bit == 31 else 2**bit
        assert int(bits) != was
        found += bound.repair() == [Damage(line, 1)] and int(bits) == was
    assert found == FLIPS
    assert bound.check() == [] and state(vlm.model) == before


def test_several_damages_at_once():
    vlm = tiny_models.llava()
    copies, before = CleanWeights.of(vlm.model, some(vlm)), state(vlm.model)
    bound, places = copies.bound(vlm.model), entries(vlm.model, copies)
    struck = random.Random(1).sample(places, 20)
    for number, (line, index) in enumerate(struck):
        flip(vlm.model, line.parameter, index, number)
    expected: dict[Line, int] = {}
    for line, _ in struck:
        expected[line] = expected.get(line, 0) + 1
    assert {d.line: d.entries for d in bound.check()} == expected
    assert {d.line: d.entries for d in bound.repair()} == expected
    assert state(vlm.model) == before and bound.check() == []


def test_a_weight_in_a_row_and_in_a_column_is_found_in_both():
    vlm = tiny_models.llava()
    down, hidden = some(vlm, "down", members=(3,)), some(vlm, "hidden", members=(5,))
    copies, before = CleanWeights.of(vlm.model, down | hidden), state(vlm.model)
    name = f"{next(iter(down)).site.path}.weight"
    flip(vlm.model, name, (3, 5), 30)
    assert set(copies.bound(vlm.model).repair()) == {Damage(Line(name, 0, 3), 1), Damage(Line(name, 1, 5), 1)}
    assert state(vlm.model) == before
    assert [str(d) for d in (Damage(Line(name, 0, 3), 1), Damage(Line(name, 1, 5), 1200))] == [
        f"{name}[3]: 1 entry", f"{name}[:, 5]: 1,200 entries",
    ]  # fmt: skip


def test_damage_elsewhere_is_not_reported():
    vlm = tiny_models.llava()
    copies = CleanWeights.of(vlm.model, some(vlm))
    guarded = {(line.parameter, index) for line, index in entries(vlm.model, copies)}
    names, rng = sorted({name for name, _ in guarded}), random.Random(2)
    struck = []
    while len(struck) < 50:
        name = rng.choice(names)
        index = tuple(rng.randrange(n) for n in vlm.model.get_parameter(name).shape)
        if (name, index) not in guarded:
            struck.append((name, index))
            flip(vlm.model, name, index, 30)
    damaged = state(vlm.model)
    assert copies.bound(vlm.model).repair() == [] and state(vlm.model) == damaged


def test_nan_and_negative_zero_are_told_apart_by_their_bits():
    vlm = tiny_models.llava()
    parameter, index = next(iter(entries(vlm.model, CleanWeights.of(vlm.model, some(vlm)))))[0].parameter, (1, 1)
    weight = vlm.model.get_parameter(parameter)
    bits = weight.detach().view(torch.int32)
    for was, now in [(0x7FC12345, 0x7FC12346), (0, -(2**31)), (0x7F800000, 0x7F800001)]:
        bits[index] = was
        copies = CleanWeights.of(vlm.model, some(vlm))
        bound = copies.bound(vlm.model)
        assert bound.check() == [], "a NaN is equal to itself"
        bits[index] = now
        assert [d.entries for d in bound.repair()] == [1] and int(bits[index]) == was


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_of_sixteen_bits(dtype):
    vlm = tiny_models.llava()
    vlm.model.to(dtype)
    copies, before = CleanWeights.of(vlm.model, some(vlm)), state(vlm.model)
    bound, rng = copies.bound(vlm.model), random.Random(3)
    assert copies.size == 2 * copies.entries
    for line, index in rng.sample(entries(vlm.model, copies), 64):
        flip(vlm.model, line.parameter, index, rng.randrange(16))
        assert bound.repair() == [Damage(line, 1)]
    assert state(vlm.model) == before


@pytest.mark.parametrize(("family", "role"), [("gpt2", "hidden"), ("phi3", "gate"), ("llama", "down"), ("llama", "head")])
def test_weights_of_other_makes(family, role):
    """Transposed ones, fused ones, biases, and a head's columns."""
    vlm = vlm_of(family)
    copies, before = CleanWeights.of(vlm.model, some(vlm, role, members=(1,))), state(vlm.model)
    for line, index in entries(vlm.model, copies)[:: max(1, copies.entries // 20)]:
        flip(vlm.model, line.parameter, index, 29)
        assert copies.bound(vlm.model).repair() == [Damage(line, 1)]
    assert state(vlm.model) == before


def test_a_copy_that_is_damaged_itself_repairs_nothing():
    vlm = tiny_models.llava()
    copies = CleanWeights.of(vlm.model, some(vlm))
    (first, other), bound = list(copies.copies)[:2], copies.bound(vlm.model)
    copies.copies[first][1].view(torch.int32)[0, 0] ^= 1
    line = Line(*first, int(copies.copies[first][0][0]))
    flip(vlm.model, other[0], next(i for at, i in entries(vlm.model, copies) if (at.parameter, at.dim) == other), 30)
    damaged = state(vlm.model)
    with pytest.raises(ModelError, match=r"own copy of .* is damaged, so nothing was repaired; make it anew") as caught:
        bound.repair()
    assert str(line) in str(caught.value) and state(vlm.model) == damaged


# -- files -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def kept(tmp_path: Path) -> tuple[VisionLanguageModel, CleanWeights, Path]:
    vlm = tiny_models.llava()
    copies, path = CleanWeights.of(vlm.model, some(vlm)), tmp_path / "new" / "guard"
    copies.save(path, {"about": ["é", None]}, {"more/0": torch.arange(3.0)})
    return vlm, copies, path


def test_a_file_keeps_what_is_in_it(kept: tuple[VisionLanguageModel, CleanWeights, Path], tmp_path: Path):
    vlm, copies, path = kept
    read, head, more = CleanWeights.load(path)
    assert head["about"] == ["é", None] and more.keys() == {"more/0"} and more["more/0"].tolist() == [0.0, 1.0, 2.0]
    assert read.copies.keys() == copies.copies.keys()
    for key, (indices, rows) in copies.copies.items():
        assert torch.equal(read.copies[key][0], indices) and torch.equal(read.copies[key][1], rows)
        assert list(read.checksums[key]) == list(copies.checksums[key])
    read.save(tmp_path / "again", {"about": ["é", None]}, more)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    flip(vlm.model, *next((line.parameter, index) for line, index in entries(vlm.model, read)), 30)
    assert len(read.bound(vlm.model).repair()) == 1


def test_a_damaged_file_is_never_taken_for_a_whole_one(kept: tuple[VisionLanguageModel, CleanWeights, Path]):
    """Any flipped bit and any cut: a guard that was read wrongly would damage the model that it is to mend."""
    _, copies, path = kept
    whole, rng = path.read_bytes(), random.Random(4)
    size = int.from_bytes(whole[:8], "little") + 8
    places = [*(rng.randrange(size) for _ in range(200)), *(rng.randrange(len(whole)) for _ in range(200))]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with pytest.raises(ModelError, match="is no guard, or damaged; expected a file that `lesion guard make` wrote") as no:
            CleanWeights.load(path)
        assert "\n" not in str(no.value)
    for length in (0, 7, 8, size - 1, size, len(whole) - 1, rng.randrange(len(whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="is no guard, or damaged"):
            CleanWeights.load(path)
    path.write_bytes(whole)
    assert CleanWeights.load(path)[0].lines == copies.lines


def test_files_that_are_no_guards(tmp_path: Path, kept: tuple[VisionLanguageModel, CleanWeights, Path]):
    _, _, path = kept
    with pytest.raises(ModelError, match=r"no guard at .*nowhere; expected a file that `lesion guard make` wrote"):
        CleanWeights.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="is no guard, or damaged"):
        CleanWeights.load(tmp_path)
    save_file(load_file(path), tmp_path / "plain")
    with pytest.raises(ModelError, match="is no guard, or damaged"):
        CleanWeights.load(tmp_path / "plain")
    for head, message in [
        ("[" * 10_000, "is no guard, or damaged"), ("null", "is no guard"), ('{"format": 3}', "is a guard of format 3; exp"),
    ]:  # fmt: skip
        save_file(load_file(path), tmp_path / "other", {"lesion": f"{zlib.crc32(head.encode()):08x}{head}"})
        with pytest.raises(ModelError, match=message):
            CleanWeights.load(tmp_path / "other")


def test_a_guard_of_another_model_is_refused(kept: tuple[VisionLanguageModel, CleanWeights, Path]):
    vlm, copies, _ = kept
    with pytest.raises(ModelError, match="the model has no parameter"):
        copies.bound(vlm_of("gpt2").model)
    with pytest.raises(ModelError, match=r"has shape \(.*\), which does not fit the guard; is it another model's\?"):
        copies.bound(load("tiny-llava").model)
    vlm.model.to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"is in torch.bfloat16, and the guard holds torch.float32; give the guard's --dtype"):
        copies.bound(vlm.model)


# -- after faults ------------------------------------------------------------------------------------------------------
def test_restored_undoes_what_the_edits_before_it_did(kept: tuple[VisionLanguageModel, CleanWeights, Path]):
    vlm, copies, path = kept
    before = state(vlm.model)
    places = entries(vlm.model, copies)
    flips = [BitFlip(line.parameter, index, 30) for line, index in places[::50]]
    with edited(vlm.model, [*flips, Restored(str(path))]):
        assert state(vlm.model) == before
    with edited(vlm.model, [*flips[1:], Restored(str(path)), flips[0]]):
        assert len(copies.bound(vlm.model).check()) == 1
    assert state(vlm.model) == before


def test_restored_reads_a_file_that_was_made_anew(kept: tuple[VisionLanguageModel, CleanWeights, Path]):
    vlm, _, path = kept
    line, index = entries(vlm.model, CleanWeights.load(path)[0])[0]
    fault = BitFlip(line.parameter, index, 30)
    with edited(vlm.model, [fault, Restored(str(path))]):
        pass
    other = CleanWeights.of(vlm.model, some(vlm, layer=1))
    other.save(path)
    with edited(vlm.model, [fault, Restored(str(path))]):
        assert other.bound(vlm.model).check() == []
        assert len(CleanWeights.of(vlm.model, some(vlm)).copies) and vlm.model.get_parameter(line.parameter)[index].abs() > 1e9
    path.unlink()
    with pytest.raises(ModelError, match="no guard at"), edited(vlm.model, [fault, Restored(str(path))]):
        pass
