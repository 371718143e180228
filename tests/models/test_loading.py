"""Names, revisions, and what is loaded from a folder: the same model, of every family whose processor loads here."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from lesion.core.errors import ModelError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.hooks.intervene import mask
from lesion.models.discovery import discover
from lesion.models.loading import _missing_package, load, load_structure, split_revision
from tests.models.test_families import FAMILIES, answered, built, prompts_of, vlm_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("owner/name", ("owner/name", None)), ("owner/name@v1.0", ("owner/name", "v1.0")), ("tiny-llava", ("tiny-llava", None)),
        ("owner/name@refs/pr/3", ("owner/name", "refs/pr/3")), ("@odd", ("@odd", None)),
    ],
)  # fmt: skip
def test_a_revision_is_what_comes_after_the_at(name, split):
    assert split_revision(name) == split


def test_a_folder_with_an_at_in_its_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine@home").mkdir()
    assert split_revision("mine@home") == ("mine@home", None)


def test_the_revision_reaches_the_hub(monkeypatch):
    asked = []

    def refuse(source, **options):
        asked.append((source, options["revision"]))
        raise OSError("offline")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    for call in (load, load_structure):
        with pytest.raises(ModelError, match="the config of 'owner/name@v1' cannot be loaded: offline"):
            call("owner/name@v1")
    assert asked == [("owner/name", "v1")] * 2


@pytest.mark.parametrize(
    ("message", "package"),
    [
        ("\nQwen2VLVideoProcessor requires the Torchvision library but it was not found in your environment.", "torchvision"),
        ("\nX requires the PIL library but it was not found in your environment. You can install it with pip:\n"
         "`pip install pillow`. Please note that you may need to restart.", "pillow"),
        ("Package `num2words` is required to run SmolVLM processor. Install it with `pip install num2words`.", "num2words"),
        ("No module named 'einops'", "einops"), ("No module named 'timm.models'", "timm"), ("No such file", None),
    ],
)  # fmt: skip
def test_the_package_that_a_message_asks_for(message, package):
    assert _missing_package(message) == package


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_the_same_after_loading(family, tmp_path):
    """Sites from the configuration alone, weights, answers under a mask that was saved with them."""
    vlm, prompts, _ = answered(family)
    vlm.model.save_pretrained(tmp_path)
    found = load_structure(str(tmp_path))
    assert [(s.key, s.width, s.reachable) for s in found] == [(s.key, s.width, s.reachable) for s in vlm.sites]
    auto = AutoModelForCausalLM if vlm.structure.vision is None else AutoModelForImageTextToText
    again = auto.from_pretrained(tmp_path, dtype=torch.float32)
    assert [s.key for s in discover(again)] == [s.key for s in vlm.sites]
    neurons = NeuronSet(Neuron(s, i) for s in vlm.sites.select("language", "hidden") for i in (1, 4))
    neurons.save(tmp_path / "neurons.json")
    other = type(vlm)(again, vlm.processor, family)
    with mask(vlm.model, neurons), mask(other.model, NeuronSet.load(tmp_path / "neurons.json").fit(other.sites)):
        masked = [v.generate(v.embed(prompts), 6) for v in (vlm, other)]
    assert masked[0] == masked[1]


LOADS = (
    "llava", "instructblip", "llava_next", "blip_2_opt", "blip_2_t5", "paligemma", "gemma3", "aya_vision", "cohere2_vision",
    "idefics3", "mllama", "florence2",
)  # fmt: skip
"""Without torchvision, transformers cannot load the processors of the others from a folder."""


@pytest.mark.parametrize("family", LOADS)
def test_a_folder_is_all_that_a_study_needs(family, tmp_path):
    vlm, _, answers = answered(family)
    for part in (vlm.model, vlm.processor):
        part.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), dtype="float32", device="cpu")
    assert type(loaded.model) is type(built(family).model) and loaded.structure == vlm_of(family).structure
    assert loaded.generate(loaded.embed(prompts_of(loaded)), 6) == answers


def test_a_model_without_image_processor_is_refused(tmp_path):
    vlm = vlm_of("llava")
    vlm.model.save_pretrained(tmp_path)
    vlm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"processor of .*(has no image processor|cannot be loaded)"):
        load(str(tmp_path))


def test_a_model_that_reads_text_alone_needs_its_tokenizer(tmp_path):
    vlm = vlm_of("llama")
    vlm.model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded"):
        load(str(tmp_path))
    vlm.tokenizer.save_pretrained(tmp_path)
    assert load(str(tmp_path)).identity().key == vlm.identity().key
