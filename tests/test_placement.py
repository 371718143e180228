"""Offloaded models: the same fingerprint, answers, importance and masked answers as in memory."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from lesion.doctor import examine
from lesion.errors import ModelError
from lesion.masking import mask
from lesion.models.placement import fetch
from lesion.models.vlm import VisionLanguageModel
from lesion.neurons import Neuron, NeuronSet
from lesion.scoring import score
from tests.test_families import BUILDERS, SAMPLES, prompts_of

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
    assert outside.device == CPU and outside.fingerprint == inside.fingerprint
    prompts = prompts_of(inside)
    answers = [v.generate(v.embed(prompts), 6) for v in (inside, outside)]
    assert answers[0] == answers[1]
    names = ("can", "wanda", "perturbation")
    scored = [score(v.model, v.sites, v.batches(prompts, answers[0], 2), names) for v in (inside, outside)]
    for site in inside.sites:
        for name in names:
            one, other = (torch.from_numpy(s[name].values(site)) for s in scored)
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)
    neurons = NeuronSet(Neuron(s, i) for s in inside.sites if s.reachable for i in (0, 7))
    masked = []
    for v in (inside, outside):
        with mask(v.model, neurons):
            masked.append(v.generate(v.embed(prompts), 6))
    assert masked[0] == masked[1] != answers[0]
    with pytest.raises(ModelError, match="has no values"):
        fetch(torch.nn.Linear(2, 2, device="meta"), "weight")
    assert examine(outside, SAMPLES[0], "What do you see ?").complaint == ""
