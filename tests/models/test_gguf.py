"""GGUF files: loaded as any other model, and every wrong one is refused in one line."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lesion
from lesion.core.errors import ModelError, OptionError
from lesion.models import gguf
from lesion.models.loading import load, load_structure, reads_text_alone
from lesion.study.doctor import diagnose
from tests import gguf_files

PROMPTS = "hello there\nhow are you\nwhat is it\nhe is here\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, its file as it is, and its file rounded to 8 bits."""
    folder, model = tmp_path_factory.mktemp("gguf"), gguf_files.llama()
    gguf_files.write_llama(folder / "tiny.F32.gguf", model)
    gguf_files.write_llama(folder / "tiny.Q8_0.gguf", model, quantised=True)
    return model, folder / "tiny.F32.gguf", folder / "tiny.Q8_0.gguf"


def test_an_unrounded_file_is_the_model_that_it_was_made_from(files):
    model, path, _ = files
    loaded = load(str(path)).model
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    ids = torch.arange(12)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_rounded_file_holds_the_values_that_its_numbers_stand_for(files):
    from gguf import GGUFReader, dequantize

    model, _, path = files
    loaded = load(str(path)).model
    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}["blk.1.ffn_down.weight"]
    down = loaded.model.layers[1].mlp.down_proj.weight.detach().numpy()
    np.testing.assert_array_equal(down, dequantize(stored.data, stored.tensor_type))
    original = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    assert 0 < np.abs(down - original).max() < np.abs(original).max() / 100


def test_it_is_saved_as_an_ordinary_folder(files, tmp_path):
    vlm = load(str(files[2]))
    vlm.model.save_pretrained(tmp_path)
    vlm.tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in vlm.model.state_dict().items())
    text = "hello there"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == vlm.tokenizer(text).input_ids
    assert load(str(tmp_path)).identity().weights == vlm.identity().weights


def test_it_is_studied(files, tmp_path):
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    result = lesion.Study(
        str(files[2]), data=str(tmp_path / "prompts.txt"), samples=4, role="down", max_k=2, controls=1, max_new_tokens=4,
        out=tmp_path / "run",
    ).run()  # fmt: skip
    assert result.neurons_total == 2 * 64 and result.model == str(files[2])
    assert [point.k for point in result.curve] == [0, 1, 2]


def test_the_structure_is_read_without_the_weights(files):
    sites = load_structure(str(files[1]))
    assert sites.select("language", "hidden").neurons == 2 * 96 and reads_text_alone(str(files[1]))


def test_the_doctor_says_what_the_file_is_and_what_is_lost(files):
    whole, rounded = ({c.name: c for c in diagnose(str(path)).checks} for path in files[1:])
    assert whole["GGUF file"].found == "architecture llama; tensors: F32 21; 32.0 bits a weight"
    assert whole["lost in the file"].found == "nothing: no tensor is quantised"
    assert "Q8_0 16, F32 5" in rounded["GGUF file"].found and "rounded away" in rounded["lost in the file"].found
    assert "GGUF file" not in {c.name for c in diagnose("tiny-llava").checks}


def test_nothing_is_drawn_while_it_loads(files, capfd):
    load(str(files[2]))
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_is_refused(files, tmp_path):
    data = files[1].read_bytes()
    for share in (0.001, 0.2, 0.9):
        path = tmp_path / "cut.gguf"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ModelError, match=r"cut\.gguf is damaged or cut off after [\d,]+ bytes \(.+\); copy or download it"):
            load(str(path))


def test_an_architecture_that_transformers_does_not_read_is_refused(tmp_path):
    gguf_files.write_llama(tmp_path / "odd.gguf", gguf_files.llama(), architecture="rwkv6")
    with pytest.raises(ModelError, match=r"odd\.gguf has the architecture 'rwkv6', which .* not read .*; expected .*llama"):
        load(str(tmp_path / "odd.gguf"))


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "text.gguf").write_text("once upon a time")
    with pytest.raises(ModelError, match=r"text\.gguf is no GGUF file: it does not begin with GGUF"):
        load(str(tmp_path / "text.gguf"))
    with pytest.raises(ModelError, match=r"no file .*none\.gguf; expected a \.gguf file"):
        load(str(tmp_path / "none.gguf"))


def test_without_the_package_it_is_named(files, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(ModelError, match=r"tiny\.F32\.gguf is a GGUF file, .* not installed; pip install gguf"):
        load(str(files[1]))


def test_it_is_not_quantised_twice(files):
    with pytest.raises(OptionError, match=r"quantization is '8bit', and .* is quantised already; leave it out"):
        load(str(files[2]), quantization="8bit")
