"""Which weights a neuron is made of: set to zero they are the mask by hooks, and no other unit has a share in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lesion.core.errors import ModelError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.intervene import mask
from lesion.models.feedforward import columns
from lesion.models.neuron_weights import Line, wiring_of
from lesion.models.vlm import VisionLanguageModel
from tests.hooks.test_edit import state
from tests.models.test_families import answered, vlm_of

# Llama has biases everywhere, Phi-3 gate and up in one module, GPT-2 transposed weights, OPT and CLIP no gate but biases; Aya
# Vision's projector is fused the other way round.
PLACES = [
    ("llama", "language", "gate"), ("llama", "language", "up"), ("llama", "language", "hidden"), ("phi3", "language", "gate"),
    ("phi3", "language", "up"), ("phi3", "language", "hidden"), ("gpt2", "language", "hidden"), ("opt", "language", "hidden"),
    ("llava", "vision", "hidden"), ("llava", "connector", "hidden"), ("aya_vision", "connector", "hidden"),
    ("aya_vision", "connector", "gate"), ("qwen2_vl", "vision", "hidden"), ("gemma3", "language", "gate"),
    ("blip_2_t5", "language", "gate"), ("instructblip", "qformer", "hidden"),
]  # fmt: skip
GATED = {"llama", "phi3", "gemma3", "blip_2_t5"}


def site_of(vlm: VisionLanguageModel, component: str, role: str) -> Site:
    return next(s for s in vlm.sites.select(component, role, reachable_only=True))


def part(model: nn.Module, line: Line) -> torch.Tensor:
    """A view."""
    return model.get_parameter(line.parameter).detach().select(line.dim, line.at)


@contextmanager
def changed(model: nn.Module, lines: Sequence[Line], by: Any) -> Iterator[None]:
    kept = [part(model, line).clone() for line in lines]
    try:
        for line in lines:
            part(model, line).copy_(by(part(model, line)))
        yield
    finally:
        for line, values in zip(lines, kept, strict=True):
            part(model, line).copy_(values)


@cache
def asked(family: str) -> Any:
    """The answers are the intact model's, whatever is done to it afterwards."""
    return answered(family)


def said(family: str) -> torch.Tensor:
    vlm, prompts, answers = asked(family)
    return torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers))


def units(family: str, site: Site) -> torch.Tensor:
    """What goes into the site's out-projection, ``[calls' tokens, units]``."""
    vlm, prompts, answers = asked(family)
    found: list[torch.Tensor] = []
    module = vlm.model.get_submodule(site.writes_through or "")

    def look(_: Any, args: Any) -> None:
        found.append(args[0].detach().flatten(0, -2).clone())

    handle = module.register_forward_pre_hook(look)
    try:
        vlm.answer_log_probs(vlm.embed(prompts), answers)
    finally:
        handle.remove()
    return torch.cat(found)


def split(site: Site, lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """Those of the out-projection, and the others."""
    out = [line for line in lines if line.parameter == f"{site.writes_through}.weight"]
    return out, [line for line in lines if line not in out]


@pytest.mark.parametrize(("family", "component", "role"), PLACES)
def test_zeros_in_the_out_projection_are_the_mask(family, component, role):
    vlm, _, _ = asked(family)
    site = site_of(vlm, component, role)
    before, wiring, intact = state(vlm.model), wiring_of(vlm.model), said(family)
    members = [1, site.width - 2]
    out = [line for i in members for line in split(site, wiring.lines(site, i))[0]]
    assert len(out) == len(set(out)) == 2
    hidden = Site(site.writes_through or "", site.component, "hidden", site.layer, site.width, side="input")
    with mask(vlm.model, NeuronSet(Neuron(hidden, i) for i in members)):
        expected = said(family)
    with changed(vlm.model, out, torch.zeros_like):
        torch.testing.assert_close(said(family), expected, rtol=1e-5, atol=1e-5)
    assert state(vlm.model) == before and not torch.equal(expected, intact)


@pytest.mark.parametrize(("family", "component", "role"), PLACES)
def test_the_rows_listed_make_the_unit_and_no_other(family, component, role):
    """Each of them changes what the unit gives; no other unit's changes; and with all at zero nothing is left of it."""
    vlm, _, _ = asked(family)
    site = site_of(vlm, component, role)
    intact = units(family, site)
    index = int(intact.abs().amax(0).argmax())  # some are silent
    _, rows = split(site, wiring_of(vlm.model).lines(site, index))
    biased = [line for line in rows if line.parameter.endswith(".bias")]
    kinds = 2 if site.role != "hidden" or family in GATED or family == "aya_vision" else 1
    assert len(rows) - len(biased) == kinds and len(biased) in (0, kinds) and len(set(rows)) == len(rows)
    for line in rows:
        with changed(vlm.model, [line], lambda x: x * -3 + 1):
            differs = (units(family, site) != intact).any(0)
        assert differs.nonzero().flatten().tolist() == [index], line
    with changed(vlm.model, rows, torch.zeros_like):
        found = units(family, site)
    assert not found[:, index].any() and intact[:, index].any()
    others = [i for i in range(site.width) if i != index]
    assert torch.equal(found[:, others], intact[:, others])


@pytest.mark.parametrize(("family", "component"), [("llama", "language"), ("gpt2", "language"), ("llava", "vision")])
def test_a_down_neuron_is_a_row_of_the_out_projection_and_its_bias(family, component):
    vlm = vlm_of(family)
    site = site_of(vlm, component, "down")
    lines = wiring_of(vlm.model).lines(site, 3)
    assert [(line.parameter, line.dim, line.at) for line in lines] == [
        (f"{site.path}.weight", 1 if family == "gpt2" else 0, 3), (f"{site.path}.bias", 0, 3),
    ]  # fmt: skip
    asked(family)
    with mask(vlm.model, NeuronSet([Neuron(site, 3)])):
        expected = said(family)
    with changed(vlm.model, lines, torch.zeros_like):
        torch.testing.assert_close(said(family), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt", "blip_2_t5"])
def test_a_head_is_the_columns_that_it_writes_through(family):
    vlm = vlm_of(family)
    site = site_of(vlm, "language", "head")
    lines = wiring_of(vlm.model).lines(site, 1)
    assert site.group > 1 and len(lines) == site.group and {line.parameter for line in lines} == {f"{site.path}.weight"}
    weight = vlm.model.get_parameter(lines[0].parameter)
    assert all(len(part(vlm.model, line)) == columns(vlm.model.get_submodule(site.path), weight).shape[0] for line in lines)
    intact = said(family)
    with mask(vlm.model, NeuronSet([Neuron(site, 1)])):
        expected = said(family)
    with changed(vlm.model, lines, torch.zeros_like):
        torch.testing.assert_close(said(family), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, intact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "instructblip", "qwen3_vl", "mistral3", "mllama", "florence2", "smolvlm", "qwen3"])
def test_no_two_neurons_of_a_site_share_a_line(family):
    """And what is listed is there."""
    vlm = vlm_of(family)
    wiring, parameters = wiring_of(vlm.model), dict(vlm.model.named_parameters())
    for site in vlm.sites:
        seen = [line for i in {0, site.width // 2, site.width - 1} for line in wiring.lines(site, i)]
        assert len(seen) == len(set(seen)), site
        for line in seen:
            assert 0 <= line.at < parameters[line.parameter].shape[line.dim]


def test_lines_in_words():
    assert str(Line("a.weight", 0, 3)) == "a.weight[3]" and str(Line("a.weight", 1, 3)) == "a.weight[:, 3]"


def test_weights_that_are_not_plain():
    mixtral = vlm_of("mixtral")
    expert = next(s for s in mixtral.sites if s.expert is not None)
    with pytest.raises(ModelError, match="is an expert's, whose weights are stacked; expected a neuron of a plain layer"):
        wiring_of(mixtral.model).lines(expert, 0)
    gemma = vlm_of("gemma3")
    bare = site_of(gemma, "connector", "down")
    with pytest.raises(ModelError, match="is no plain linear layer in memory; expected floating-point weights"):
        wiring_of(gemma.model).lines(bare, 0)


@pytest.mark.parametrize("weight", [torch.zeros(8, 4, dtype=torch.int8), torch.zeros(8, 4, device="meta")])
def test_quantised_and_offloaded_weights_are_refused(weight):
    model = nn.Module()
    model.inner = nn.Linear(4, 8)
    model.inner.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ModelError, match="inner is no plain linear layer in memory; expected floating-point weights"):
        wiring_of(model).lines(Site("inner", "language", "down", 0, 8), 0)


def test_indices_are_the_sites_own():
    """A fused in-projection's second half is another row."""
    vlm = vlm_of("phi3")
    gate, up = site_of(vlm, "language", "gate"), site_of(vlm, "language", "up")
    wiring = wiring_of(vlm.model)
    assert gate.start != up.start and wiring.lines(gate, 2) == wiring.lines(up, 2) == wiring.lines(
        site_of(vlm, "language", "hidden"), 2
    )
    fused = [line.at for line in wiring.lines(gate, 2) if "gate_up_proj" in line.parameter]
    assert fused == [2, 2 + gate.width] and np.diff(fused).item() == abs(gate.start - up.start)
