"""The hash of all weights: any edit changes it, and it is read anew wherever somebody may have made one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lesion.core.errors import ModelError
from lesion.models import identity
from lesion.models.identity import CACHE_FILE, EDITS, hash_tensor, hash_weights
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.zoo import folder
from tests import tiny_models

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool)


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    bits = torch.randint(-100, 100, shape, generator=torch.Generator().manual_seed(seed))
    return bits > 0 if dtype == torch.bool else bits.to(dtype)


def changed(value: torch.Tensor) -> torch.Tensor:
    """Another value, by as little as the dtype has."""
    if value.dtype == torch.bool:
        return ~value
    if not value.is_floating_point():
        return value + 1
    return torch.nextafter(value.float(), torch.tensor(9e9)).to(value.dtype) if value.dtype == torch.float32 else value + 1


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(1, 300), st.data())
def test_one_changed_entry_changes_both_sums(dtype: torch.dtype, size: int, data: st.DataObject):
    """Sizes that are no multiple of 8 bytes are among them."""
    tensor, place = random((size,), dtype, size), data.draw(st.integers(0, size - 1))
    before = hash_tensor(tensor)
    edited = tensor.clone()
    edited[place] = changed(edited[place])
    after = hash_tensor(edited)
    assert before == hash_tensor(tensor.clone())
    assert before[0] != after[0] and before[1] != after[1]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 17), st.integers(1, 40))
def test_a_view_has_the_hash_of_its_values(dtype: torch.dtype, offset: int, size: int):
    """Whatever stands before and behind it in memory, and wherever in a word it begins."""
    storage = random((offset + size + 9,), dtype, size)
    view = storage[offset : offset + size]
    assert hash_tensor(view) == hash_tensor(view.clone())
    storage[offset + size :] = changed(storage[offset + size :])
    assert hash_tensor(view) == hash_tensor(view.clone())


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_count_and_not_how_they_lie_in_memory(dtype: torch.dtype):
    square = random((13, 7), dtype)
    assert hash_tensor(square.T) == hash_tensor(square.T.contiguous()) != hash_tensor(square)
    assert hash_tensor(square[:, ::2]) == hash_tensor(square[:, ::2].contiguous())
    assert hash_tensor(square[0, 0]) == hash_tensor(square[:1, 0])
    assert hash_tensor(square[:0]) == (0, 0)


def test_every_bit_counts():
    """The sign of the last float of a word is its highest bit, which is the first to be lost where sums are cut short."""
    words = torch.arange(1, 4, dtype=torch.int64)
    before, hashes = hash_tensor(words), set()
    for place in range(3):
        for bit in range(64):
            edited = words.clone()
            edited[place] ^= torch.tensor(1 << bit if bit < 63 else -(1 << 63), dtype=torch.int64)
            after = hash_tensor(edited)
            assert after[0] != before[0] and after[1] != before[1], (place, bit)
            hashes.add(after)
    assert len(hashes) == 3 * 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_changed_signs_do_not_cancel(dtype: torch.dtype):
    """Two signs are two highest bits: without scrambling, each adds 2^63 to a sum, and both nothing."""
    weights = random((8, 16), dtype) + 0.5
    hashes = {hash_tensor(weights)}
    for one in range(128):
        for other in range(one):
            edited = weights.clone().view(-1)
            edited[[one, other]] *= -1
            hashes.add(hash_tensor(edited.view(8, 16)))
    for row in range(8):
        edited = weights.clone()
        edited[row] *= -1
        hashes.add(hash_tensor(edited))
    assert len(hashes) == 1 + 128 * 127 // 2 + 8


def test_exchanged_places_and_blocks_change_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identity, "_WORDS", 16)
    monkeypatch.setattr(identity, "_FACTORS", {})
    tensor = random((16 * 2 * 5 + 3,), torch.float32)  # five blocks, and a bit of a sixth
    whole = hash_tensor(tensor)
    blocks = list(tensor.split(32))
    for i in range(4):
        exchanged = [*blocks]
        exchanged[i], exchanged[i + 1] = exchanged[i + 1], exchanged[i]
        assert hash_tensor(torch.cat(exchanged)) != whole, "blocks"
    assert hash_tensor(torch.cat([tensor[2:4], tensor[:2], tensor[4:]])) != whole, "words"
    edited = tensor.clone()
    edited[-1] += 1
    assert hash_tensor(edited) != whole, "the last word of the last block"


def linears(*seeds: int, tied: bool = False, width: int = 6) -> nn.Module:
    model = nn.Module()
    for i, seed in enumerate(seeds):
        layer = nn.Linear(width, width, bias=False)
        layer.weight = nn.Parameter(random((width, width), torch.float32, seed))
        setattr(model, f"layer_{i}", layer)
    if tied:
        any_model: Any = model
        any_model.layer_1.weight = any_model.layer_0.weight
    return model


def test_exchanged_tensors_change_the_hash_of_a_model():
    assert hash_weights(linears(1, 2, 3)) == hash_weights(linears(1, 2, 3))
    assert hash_weights(linears(1, 2, 3)) != hash_weights(linears(2, 1, 3))
    assert hash_weights(linears(1, 2)) != hash_weights(linears(1, 2).to(torch.float64))
    renamed = linears(1)
    renamed.other = linears(2).get_submodule("layer_0")
    assert hash_weights(renamed) != hash_weights(linears(1, 2))


def test_buffers_count():
    def model(value: float) -> nn.Module:
        made = linears(1)
        made.register_buffer("scale", torch.tensor(value))
        return made

    assert hash_weights(model(1.0)) == hash_weights(model(1.0)) != hash_weights(model(2.0))


def test_tied_tensors_are_read_once(monkeypatch: pytest.MonkeyPatch):
    reads: list[torch.Tensor] = []
    monkeypatch.setattr(identity, "hash_tensor", lambda t: (reads.append(t), hash_tensor(t))[1])
    tied, apart = hash_weights(linears(1, 2, 3, tied=True)), hash_weights(linears(1, 1, 3))
    assert tied == apart, "it is what they hold that counts"
    assert len(reads) == 2 + 3


def test_weights_on_disk_have_the_hash_that_they_have_in_memory(tmp_path: Path):
    """Each is fetched, read and let go, so that the next may stand at the same address."""
    for width in (6, 64, 512):
        inside, outside = (linears(*range(1, 13), width=width) for _ in range(2))
        disk_offload(outside, str(tmp_path / str(width)), execution_device=torch.device("cpu"))
        assert all(p.device.type == "meta" for p in outside.parameters())
        assert hash_weights(outside) == hash_weights(inside)


def test_a_model_without_values_has_no_identity():
    with pytest.raises(ModelError, match="has no values"):
        hash_weights(nn.Linear(3, 3, device="meta"))


@pytest.mark.parametrize("build", tiny_models.BUILDERS.values(), ids=list(tiny_models.BUILDERS))
def test_one_edited_weight_anywhere_makes_another_model(build: Any):
    """In every tensor of a model."""
    vlm: VisionLanguageModel = build()
    before, hashes = vlm.identity(), set()
    for number, parameter in enumerate(vlm.model.parameters()):
        entries = parameter.data.view(-1)
        place = number * 7919 % len(entries)
        kept = entries[place].clone()
        entries[place] = changed(kept)
        edited = vlm.identity()
        assert edited.differs_from(before)
        hashes.add(edited.weights)
        entries[place] = kept
    assert vlm.identity() == before and len(hashes) == len(list(vlm.model.parameters()))


def test_edits_are_named():
    vlm = tiny_models.llava()
    setattr(vlm.model.config, EDITS, ["masked 4 neurons"])
    assert vlm.identity().edits == ("masked 4 neurons",) and "edited: masked 4 neurons" in str(vlm.identity())


# -- kept beside the checkpoint --------------------------------------------------------------------------------------------
@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that counts as a large one."""
    monkeypatch.setattr(identity, "CACHED_FROM", 1)
    source, copy = folder("tiny-llava"), tmp_path / "model"
    copy.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    return copy


def forge(checkpoint: Path) -> None:
    """Writes another hash where the true one is kept: who gets it, has not read the weights."""
    kept = json.loads((checkpoint / CACHE_FILE).read_text())
    (checkpoint / CACHE_FILE).write_text(json.dumps({**kept, "weights": "forged"}))


def test_the_hash_is_kept_and_used_while_the_files_are_as_they_were(checkpoint: Path):
    vlm = load(str(checkpoint))
    true = vlm.identity(untouched=True).weights
    assert true == load("tiny-llava").identity().weights
    assert json.loads((checkpoint / CACHE_FILE).read_text())["weights"] == true
    forge(checkpoint)
    assert load(str(checkpoint)).identity(untouched=True).weights == "forged"
    assert load(str(checkpoint), dtype="bfloat16").identity(untouched=True).weights not in ("forged", true)


@pytest.mark.parametrize("what", ["time", "size", "name", "new file", "damaged"])
def test_a_kept_hash_of_other_files_is_not_used(checkpoint: Path, what: str):
    true = load(str(checkpoint)).identity(untouched=True).weights
    forge(checkpoint)
    vlm = load(str(checkpoint))
    weights = checkpoint / "model.safetensors"
    if what == "time":
        os.utime(weights, ns=(1, 1))
    elif what == "size":
        weights.write_bytes(weights.read_bytes() + b" ")
    elif what == "name":
        weights.rename(checkpoint / "other.safetensors")
    elif what == "new file":
        (checkpoint / "more.bin").write_bytes(b"more")
    else:
        (checkpoint / CACHE_FILE).write_text("{")
    assert vlm.identity(untouched=True).weights == true
    assert json.loads((checkpoint / CACHE_FILE).read_text())["weights"] == true, "it is kept anew"


def test_a_kept_hash_is_never_that_of_a_model_in_the_users_hands(checkpoint: Path):
    """Loaded by lesion and edited before anything was measured; or made by the user altogether."""
    vlm = load(str(checkpoint))
    true = vlm.identity(untouched=True).weights
    forge(checkpoint)
    vlm = load(str(checkpoint))
    vlm.model.lm_head.weight.data[0, 0] += 1
    assert vlm.identity().weights not in ("forged", true)
    own = VisionLanguageModel(load(str(checkpoint)).model, vlm.processor, str(checkpoint))
    assert own.identity().weights == own.identity(untouched=True).weights == true


def test_small_checkpoints_and_folders_that_cannot_be_written_keep_none(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    true = load("tiny-llava").identity().weights
    monkeypatch.setattr("os.access", lambda *_: False)
    assert load(str(checkpoint)).identity(untouched=True).weights == true
    monkeypatch.undo()
    assert load(str(checkpoint)).identity(untouched=True).weights == true
    assert not (checkpoint / CACHE_FILE).exists()


def test_another_configuration_of_the_same_weights_is_another_model(tmp_path: Path):
    vlm = load("tiny-llava")
    one = vlm.identity()
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    assert not load(str(tmp_path)).identity().differs_from(one), "where it lies and who wrote it does not count"
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    file.write_text(json.dumps(config))
    other = load(str(tmp_path)).identity()
    assert other.weights == one.weights and other.differs_from(one) and other.key != one.key
