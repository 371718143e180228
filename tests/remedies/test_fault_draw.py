"""Which faults are drawn, and what is asked of a model for them."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lesion import load
from lesion.ablation.ground import request_dict, request_of
from lesion.ablation.replies import MaskedReplies
from lesion.ablation.units import Request
from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.outcome import Likelihood
from lesion.data.samples import load_samples
from lesion.hooks.clean import Restored
from lesion.hooks.edit import EDITS_BY_NAME, MergedMask, edit_of, register_edit
from lesion.hooks.fault import BITS, RangedFault, WeightFault, faulty
from lesion.models.neuron_weights import wiring_of
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.fault_draw import POPULATIONS, Draws, Kind
from tests.hooks.test_edit import state
from tests.models.test_families import vlm_of
from tests.remedies.conftest import LONGEST
from tests.remedies.test_harden import CRITICAL, PROMPT, critical, language


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")




def draws(vlm: VisionLanguageModel, seed: int = 0, neurons: NeuronSet | None = None, **kind: Any) -> Draws:
    sites = list(vlm.sites.select("language", reachable_only=True))
    return Draws(vlm, critical(vlm) if neurons is None else neurons, sites, Kind(**kind), seed)


# -- drawing -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [{}, {"where": "activations", "at_once": 3}, {"format": "int8"}, {"action": "zero"}], ids=str)
def test_the_same_seed_draws_the_same_in_any_order(vlm: VisionLanguageModel, kind: dict[str, Any]):
    one, other, another = draws(vlm, **kind), draws(vlm, **kind), draws(vlm, 1, **kind)
    for population in POPULATIONS:
        forward = [one.draw(population, number) for number in range(30)]
        assert [other.draw(population, number) for number in reversed(range(30))] == forward[::-1]
        assert [another.draw(population, number) for number in range(30)] != forward
        assert len({json.dumps([d.as_dict() for d in drawn]) for drawn in forward}) > 10
        bits = {d.bit for drawn in forward for d in drawn}
        assert bits == {0} if kind.get("action") == "zero" else len(bits) > 4 and max(bits) < BITS[kind.get("format", "fp32")]


@pytest.mark.parametrize("at_once", [1, 4])
def test_matched_ones_are_in_the_same_sites_and_never_critical(vlm: VisionLanguageModel, at_once: int):
    sites = language(vlm, "gate", 1), language(vlm, "down", 2)
    neurons = NeuronSet([*(Neuron(sites[0], i) for i in CRITICAL[:3]), Neuron(sites[1], 5)])
    for where in ("weights", "activations"):
        drawing = draws(vlm, neurons=neurons, where=where, at_once=at_once)
        seen: Counter[Any] = Counter()
        for number in range(60):
            matched, struck = (drawing.draw(population, number) for population in ("matched", "critical"))
            chosen = [d.neuron for d in matched]
            assert len(set(chosen)) == at_once == len({d.neuron for d in struck})
            assert not set(chosen) & set(neurons) and {d.neuron for d in struck} <= set(neurons)
            if at_once == 4:
                assert sorted(n.site.key for n in chosen if n) == sorted(n.site.key for n in neurons)
            seen.update(n.site for n in chosen if n)
        assert set(seen) == set(sites)


def test_bits_in_activations_are_one_bit_and_in_weights_each_its_own(vlm: VisionLanguageModel):
    drawing = draws(vlm, where="activations", at_once=4)
    together = [drawing.draw("critical", number) for number in range(20)]
    assert all(len({d.bit for d in drawn}) == 1 for drawn in together) and len({drawn[0].bit for drawn in together}) > 5
    drawing = draws(vlm, at_once=4)
    assert any(len({d.bit for d in drawing.draw("critical", number)}) > 1 for number in range(20))
    drawing = draws(vlm, bit=30, at_once=4)
    named = [drawing.draw(population, 0) for population in POPULATIONS]
    assert {d.bit for drawn in named for d in drawn} == {30}


def test_a_neurons_weights_are_struck_alike(vlm: VisionLanguageModel):
    """Each line by its length, and all along a line; a bias is one entry."""
    gpt = vlm_of("gpt2")
    site = next(s for s in gpt.sites.select("language", "hidden"))
    drawing = draws(gpt, neurons=NeuronSet([Neuron(site, 3)]))
    lines = wiring_of(gpt.model).lines(site, 3)
    width = gpt.model.get_parameter(lines[0].parameter).shape[1]
    drawn = [drawing.draw("critical", number)[0] for number in range(2000)]
    places = Counter((d.parameter, d.index) for d in drawn)
    assert len(places) == 2 * width + 1, "every weight of a column, of a row, and the bias"
    for line in lines:
        own = [index for name, index in places if name == line.parameter]
        assert all(index is not None and index[line.dim if len(index) > 1 else 0] == line.at for index in own)
        assert len(own) == (1 if line.parameter.endswith("bias") else width)
    expected = len(drawn) / len(places)
    chi = sum((count - expected) ** 2 / expected for count in places.values())
    assert chi < len(places) + 5 * math.sqrt(2 * len(places)), "a chi-square this large would be one in millions"


def test_any_weight_is_as_likely(vlm: VisionLanguageModel):
    drawing = draws(vlm)
    drawn = [drawing.draw("everything", number)[0] for number in range(3000)]
    sizes = {name: p.numel() for name, p in vlm.model.named_parameters()}
    total = sum(sizes.values())
    for d in drawn:
        assert d.neuron is None and d.parameter is not None and d.index is not None
        shape = vlm.model.get_parameter(d.parameter).shape
        assert len(d.index) == len(shape) and all(0 <= i < n for i, n in zip(d.index, shape, strict=True))
    for part in ("vision_tower", "language_model.layers", "embed", "lm_head"):
        share = sum(size for name, size in sizes.items() if part in name) / total
        found = sum(part in str(d.parameter) for d in drawn)
        assert abs(found - 3000 * share) < 5 * math.sqrt(3000 * share * (1 - share)) + 1, part


def test_any_neuron_is_as_likely(vlm: VisionLanguageModel):
    total = sum(s.width for s in vlm.sites.select("language", reachable_only=True))
    every = draws(vlm, where="activations", at_once=total + 9).draw("everything", 0)
    language_sites = vlm.sites.select("language", reachable_only=True)
    assert {d.neuron for d in every} == {Neuron(s, i) for s in language_sites for i in range(s.width)} and len(every) == total
    drawing = draws(vlm, where="activations")
    few = [drawing.draw("everything", number)[0].neuron for number in range(800)]
    sites = Counter(n.site for n in few if n is not None)
    for site in vlm.sites.select("language", reachable_only=True):
        share = site.width / total
        assert abs(sites[site] - 800 * share) < 5 * math.sqrt(800 * share) + 1


def test_what_cannot_be_drawn(vlm: VisionLanguageModel):
    with pytest.raises(OptionError, match="5 faults at once need as many critical neurons; there are 4"):
        draws(vlm, at_once=5).check(["matched"])
    draws(vlm, at_once=5).check(["everything"])
    site = language(vlm, "gate", 1)
    most = NeuronSet(Neuron(site, i) for i in range(site.width - 1))
    with pytest.raises(OptionError, match="has 1 neurons beside the set's; 2 are to match those"):
        draws(vlm, neurons=most, at_once=2).check(["matched"])
    mixtral = vlm_of("mixtral")
    expert = NeuronSet([Neuron(next(s for s in mixtral.sites if s.expert is not None), 0)])
    with pytest.raises(ModelError, match="is an expert's, whose weights are stacked"):
        draws(mixtral, neurons=expert).check(["critical"])
    vision = NeuronSet([Neuron(next(s for s in vlm.sites if s.component == "vision"), 0)])
    some = draws(vlm, neurons=vision, where="activations", positions="first")
    with pytest.raises(OptionError, match="positions 'first' are tokens of the language model"):
        some.check(["critical"])
    some.check(["everything"])
    whole = draws(vlm, neurons=vision, where="activations")
    whole.check(POPULATIONS)
    with pytest.raises(OptionError, match="tells the first token apart"):
        whole.check(["critical"], guarded=True)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"where": "caches"}, "faults are in 'caches'; expected one of weights, activations"),
        ({"at_once": 0}, "faults at once are 0; expected at least 1"),
        ({"positions": "first"}, "positions 'first' are for faults in activations; weights serve all tokens"),
        ({"where": "activations", "positions": "last"}, "positions is 'last'; expected one of"),
        ({"where": "activations", "format": "int8"}, "activations have no int8 scale here"),
        ({"format": "fp8"}, "format is 'fp8'; expected one of fp32, fp16, bf16, int8"),
        ({"action": "melt"}, "fault is 'melt'; expected one of flip, stuck-at-0, stuck-at-1, zero"),
        ({"bit": 8, "format": "int8"}, "bit is 8; a number in int8 has bits 0 to 7"),
    ],
)  # fmt: skip
def test_kinds_that_there_are_not(kind: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        Kind(**kind)


# -- what is asked -----------------------------------------------------------------------------------------------------
def replies_of(vlm: VisionLanguageModel, seed: int = 5) -> MaskedReplies:
    prompts = [vlm.prompt(sample, PROMPT) for sample in load_samples("scenes", 3, seed=seed)]
    intact = vlm.generate(vlm.embed(prompts), LONGEST)
    return MaskedReplies(vlm, prompts, intact, intact, LONGEST, 3)


def read(replies: MaskedReplies, requests: list[Request]) -> list[list[float | None]]:
    found = {place: reading for group in replies.read(requests) for place, reading in group.items()}
    return [[likelihood.nll for likelihood in found[place]] for place in range(len(requests))]


def strong(vlm: VisionLanguageModel, population: Any) -> list[Request]:
    """Faults that do something: the highest bit of the exponent, in several weights."""
    drawing = draws(vlm, bit=30, at_once=4)
    return [drawing.request(drawing.draw(population, number)) for number in range(4)]


@pytest.mark.parametrize("population", POPULATIONS)
def test_a_fault_that_is_asked_is_a_weight_edited_by_hand(vlm: VisionLanguageModel, population: Any):
    before, requests, replies = state(vlm.model), strong(vlm, population), replies_of(vlm)
    intact, found = read(replies, [Request(NeuronSet())])[0], read(replies, requests)
    assert state(vlm.model) == before and not hasattr(vlm.model.config, "lesion_edits")
    assert any(row != pytest.approx(intact) for row in found)
    for request, row in zip(requests, found, strict=True):
        assert len(request.edits) == 4 and not len(request.neurons)
        kept: list[tuple[torch.Tensor, Any, torch.Tensor]] = []
        for edit in request.edits:
            assert isinstance(edit, WeightFault)
            weight = vlm.model.get_parameter(edit.parameter).detach()
            kept.append((weight, edit.index, weight[edit.index].clone()))
            weight[edit.index] = faulty(weight[edit.index], 30)
        contexts = vlm.embed(replies.prompts)
        by_hand = vlm.answer_log_probs(contexts, replies.references)
        for weight, index, value in reversed(kept):
            weight[index] = value
        nll = [
            Likelihood.of([-float(x[i, t]) for i, t in enumerate(answer.ids)]).nll
            for x, answer in zip(by_hand, replies.references, strict=True)
        ]
        assert row == pytest.approx(nll, rel=1e-3, abs=1e-4)
    assert state(vlm.model) == before and read(replies, [Request(NeuronSet())])[0] == intact


def test_where_a_fault_is_says_which_layers_are_left_out(vlm: VisionLanguageModel, held: Path):
    grouping = replies_of(vlm).grouping
    drawing = draws(vlm)
    (struck,) = [drawing.draw("critical", 0)]
    one, guarded = drawing.request(struck), drawing.request(struck, str(held / "guard"))
    (site,) = critical(vlm).sites
    for request in (one, guarded):
        assert request.sites == [site] and request.language_only and grouping.first_layer(request) == 1
    assert isinstance(guarded.edits[-1], Restored) and guarded.edits[-1].sites == ()
    anywhere = drawing.request(drawing.draw("everything", 0))
    assert anywhere.sites is None and not anywhere.language_only and grouping.first_layer(anywhere) == 0
    ranged = draws(vlm, where="activations").request(draws(vlm, where="activations").draw("critical", 0), "guard")
    assert isinstance(ranged.intervention, RangedFault) and not ranged.edits
    vision = next(s for s in vlm.sites if s.component == "vision")
    far = Request(NeuronSet(), edits=(WeightFault("x", (0,), 0, site=vision),))
    assert far.sites == [vision] and not far.language_only and grouping.first_layer(far) == 0


def test_requests_with_edits_go_through_json(vlm: VisionLanguageModel, held: Path):
    requests = [*strong(vlm, "critical"), *strong(vlm, "everything")]
    requests.append(draws(vlm).request(draws(vlm).draw("critical", 0), str(held / "guard")))
    for request in requests:
        again = request_of(json.loads(json.dumps(request_dict(request))), vlm.sites)
        assert again == request and hash(again) == hash(request)
        assert [edit.id for edit in again.edits] == [edit.id for edit in request.edits] and again.sites == request.sites
    with pytest.raises(OptionError, match=r"edit 'melt' is not registered here; expected one of .*fault"):
        edit_of({"name": "melt"}, vlm.sites)
    with pytest.raises(OptionError, match="edit MergedMask cannot be given to other processes; measure it in this one"):
        request_dict(Request(NeuronSet(), edits=(MergedMask(critical(vlm)),)))

    class Own(WeightFault):
        pass

    with pytest.raises(OptionError, match="edit Own is not registered; register it with register_edit"):
        request_dict(Request(NeuronSet(), edits=(Own("x", (0,), 0),)))
    with pytest.raises(ValueError, match="an edit named 'fault' is registered already"):
        register_edit("fault")(Own)
    assert EDITS_BY_NAME["fault"] is WeightFault
