"""Offloaded models: the same identity, answers, importance and masked answers as in memory."""

from __future__ import annotations

import sys

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.data.samples import load_samples
from lesion.hooks.intervene import mask
from lesion.models.inputs import Answer
from lesion.models.loading import load
from lesion.models.placement import fetch
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.score import out_norms, score
from lesion.study.doctor import examine
from lesion.study.published import known
from tests.models.test_families import BUILDERS, SAMPLES, prompts_of

# Mllama's own code reads weights past the modules that hold them, which accelerate cannot fetch: it does not run offloaded.
FAMILIES = ("llava", "instructblip", "blip_2_opt", "qwen3_vl", "gemma3", "florence2")
CPU = torch.device("cpu")


@pytest.mark.parametrize("where", ["disk", "cpu"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_offloaded_model_is_the_same(family, where, tmp_path):
    made = [BUILDERS[family]() for _ in range(2)]
    if where == "disk":
        disk_offload(made[1].model, str(tmp_path), execution_device=CPU)
    else:
        cpu_offload(made[1].model, execution_device=CPU)
    assert sum(p.device.type == "meta" for p in made[1].model.parameters()) > 50
    inside, outside = (VisionLanguageModel(m.model, m.processor, family) for m in made)
    assert outside.device == CPU and outside.identity().key == inside.identity().key
    prompts = prompts_of(inside)
    answers = [v.generate(v.embed(prompts), 6) for v in (inside, outside)]
    assert answers[0] == answers[1]
    names = ("can", "wanda", "perturbation")
    scored = [score(v.model, v.sites, v.batches(prompts, answers[0], 2), names) for v in (inside, outside)]
    for site in inside.sites:
        for name in names:
            one, other = (torch.from_numpy(s[name].values(site)) for s in scored)
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)
    neurons = NeuronSet(Neuron(s, i) for s in inside.sites if s.reachable for i in {0, min(7, s.width - 1)})
    masked = []
    for v in (inside, outside):
        with mask(v.model, neurons):
            masked.append(v.generate(v.embed(prompts), 6))
    assert masked[0] == masked[1] != answers[0]
    with pytest.raises(ModelError, match="has no values"):
        fetch(torch.nn.Linear(2, 2, device="meta"), "weight")
    if where == "cpu":  # the same checks, and the disk is slow
        assert examine(outside, SAMPLES[0], "What do you see ?").complaint == ""


def spread(model: VisionLanguageModel) -> torch.Tensor:
    """Log-probabilities of a fixed answer."""
    prompts = prompts_of(model)
    return model.answer_log_probs(model.embed(prompts[:1]), [Answer((5, 6, 7), "")])[0]


def test_a_device_map_places_the_model_and_changes_nothing(tmp_path):
    plain = load("tiny-llava")
    mapped = load("tiny-llava", device_map="auto")
    parts = dict.fromkeys(("model.vision_tower", "model.multi_modal_projector"), "cpu")
    offloaded = load("tiny-llava", device_map={**parts, "model.language_model": "disk", "lm_head": "disk"})
    assert offloaded.model.hf_device_map["model.language_model"] == "disk"
    assert next(offloaded.model.model.language_model.parameters()).device.type == "meta"
    assert mapped.identity().key == plain.identity().key == offloaded.identity().key
    for other in (mapped, offloaded):
        assert torch.equal(spread(other), spread(plain))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"device_map": "auto", "device": "cpu"}, "device is 'cpu' and device map 'auto'; give one of them"),
        ({"device_map": "everywhere"}, "device map 'everywhere' is unknown; expected one of auto, "),
        ({"quantization": "3bit"}, "quantization '3bit' is unknown; expected one of none, 8bit, 4bit"),
        ({"quantization": "4bit", "device": "cpu"}, r"4bit weights have no gradients on a CPU .*use 8bit, or a GPU"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
    ],
)
def test_placements_that_make_no_sense(given, said):
    with pytest.raises(OptionError, match=said):
        load("tiny-llava", **given)


def test_quantisation_without_bitsandbytes(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="'4bit' needs bitsandbytes; pip install bitsandbytes"):
        load("tiny-llava", quantization="4bit")


@pytest.mark.skipif(sys.platform == "darwin", reason="the extra `quantized` installs no bitsandbytes on macOS")
def test_a_quantised_model_is_scored_and_masked():
    plain, small = load("tiny-llava"), load("tiny-llava", quantization="8bit")
    site = next(s for s in small.sites if s.role == "hidden" and s.component == "language" and s.layer == 1)
    assert type(small.model.get_submodule(site.path)).__name__ == "Linear8bitLt"
    assert small.identity().differs_from(plain.identity())
    for one, other in zip(plain.sites, small.sites, strict=True):
        torch.testing.assert_close(out_norms(small.model, other), out_norms(plain.model, one), rtol=0.02, atol=0.02)
    assert examine(small, SAMPLES[0], "What do you see ?").complaint == ""
    samples = load_samples("scenes", 4)
    prompts = [small.prompt(s, "Describe this image in detail.") for s in samples]
    answers = small.generate(small.embed(prompts), 16)
    scored = score(small.model, small.sites, small.batches(prompts, answers, 4), ("can",))
    top = Ranking(scored["can"], small.sites.select("language", "gate")).top(4)
    assert top == known("tiny-llava").neurons(small.sites, "gate"), "the seeded neurons survive 8 bits"
    with mask(small.model, top):
        assert small.generate(small.embed(prompts), 16) != answers
