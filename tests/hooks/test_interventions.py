"""Interventions on a three-neuron network, every value by hand, and on the tokens that they are restricted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lesion.ablation.evaluator import Evaluator
from lesion.ablation.replies import MaskedReplies
from lesion.ablation.units import Request
from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import (
    INTERVENTIONS,
    POSITIONS,
    ClassMean,
    Constant,
    Intervention,
    Mean,
    Scale,
    Where,
    Zero,
    get_intervention,
    register_intervention,
)
from lesion.models.layout import TokenLayout
from lesion.models.tokens import FIRST, GENERATED, IMAGE, TEXT
from tests import tiny_models
from tests.models.test_families import answered, built, vlm_of
from tests.tiny_models import ThreeNeurons

X = torch.tensor([[[2.0]]])
# Intact at x = 2: gate 2, 4, -6; up 2, 2, 1; hidden 4, 8, -6; out-projection 1, -0.5, 2; down 4 - 4 - 12 = -12.


def of(model: Any, role: str, *indices: int) -> NeuronSet:
    site = next(s for s in model.sites if s.role == role)
    return NeuronSet(Neuron(site, i) for i in indices)


def means(model: Any, role: str, values: Any, name: str = "mean") -> dict[str, dict[str, np.ndarray]]:
    site = next(s for s in model.sites if s.role == role)
    return {name: {site.key: np.array(values, dtype=float)[..., : site.width]}}


BY_HAND = [
    (Zero(), "gate", 0.0 * 2 - 4 - 12), (Zero(), "hidden", -16.0), (Zero(), "down", 0.0),
    (Mean(), "gate", 7 * 2 - 4 - 12.0), (Mean(), "hidden", 7 - 4 - 12.0), (Mean(), "down", 7.0),
    (Scale(factor=0.5), "up", 2 - 4 - 12.0), (Scale(factor=-1.0), "hidden", -4 - 4 - 12.0), (Scale(factor=3.0), "down", -36.0),
    (Constant(number=1.5), "gate", 1.5 * 2 - 4 - 12), (Constant(number=1.5), "hidden", 1.5 - 4 - 12),
    (Constant(number=-2.0), "down", -2.0),
]  # fmt: skip


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(("intervention", "role", "expected"), BY_HAND)
def test_values_by_hand(intervention, role, expected, per_row):
    model = ThreeNeurons()
    neurons = of(model, role, 0)
    with torch.no_grad(), mask(model, [neurons] if per_row else neurons, intervention, means(model, role, [7.0, 8.0, 9.0])):
        assert model(X).item() == expected
    with torch.no_grad():
        assert model(X).item() == -12.0


def test_rows_have_their_own_neurons_and_values():
    """Rows of x = 2: the first with unit 0 doubled, the second with units 1 and 2, the third as it is."""
    model = ThreeNeurons()
    sets = [of(model, "hidden", 0), of(model, "hidden", 1, 2), NeuronSet()]
    with torch.no_grad(), mask(model, sets, Scale(factor=2.0)):
        assert model(X.expand(3, 2, 1))[..., 0].tolist() == [[-8.0, -8.0], [-28.0, -28.0], [-12.0, -12.0]]


@pytest.mark.parametrize(("layers", "expected"), [(frozenset({0}), -16.0), (frozenset({1, 2}), -12.0), (None, -16.0)])
def test_layers_that_are_left_out_stay_as_they_are(layers, expected):
    model = ThreeNeurons()
    with torch.no_grad(), mask(model, of(model, "hidden", 0), Zero(layers=layers)):
        assert model(X).item() == expected


def test_a_layer_of_a_whole_model():
    vlm = tiny_models.llava()
    prompts = [vlm.prompt(s, "What do you see?") for s in tiny_models.samples(1)]
    answers = vlm.generate(vlm.embed(prompts), 4)

    def run(sites, intervention):
        with mask(vlm.model, NeuronSet(Neuron(s, i) for s in sites for i in range(12)), intervention):
            return vlm.answer_log_probs(vlm.embed(prompts), answers)[0]

    sites = vlm.sites.select("language", "hidden")
    restricted = run(sites, Zero(layers=frozenset({0, 2})))
    assert torch.equal(restricted, run(vlm.sites.select("language", "hidden", layers=[0, 2]), Zero()))
    assert not torch.equal(restricted, run(sites, Zero()))


@pytest.mark.parametrize(("role", "number"), [("gate", 0.0), ("up", 0.0), ("gate", 1.5), ("up", -2.0)])
def test_the_half_of_a_fused_projection_is_replaced_and_not_the_other(role, number):
    """Phi-3 computes gate and up in one module, the gate first; the truth is that module's output, edited by hand."""
    vlm, prompts, answers = answered("phi3")
    [site] = vlm.sites.select("language", role, layers=[1])
    assert site.start == (22 if role == "up" else 0) and site.whole == 44
    neurons = NeuronSet([Neuron(site, 3), Neuron(site, 9)])

    def edit(module, args, output):
        output = output.clone()
        output[..., [site.start + 3, site.start + 9]] = number
        return output

    handle = vlm.model.get_submodule(site.path).register_forward_hook(edit)
    expected = vlm.answer_log_probs(vlm.embed(prompts), answers)
    handle.remove()
    for sets in (neurons, [neurons, neurons]):
        with mask(vlm.model, sets, Constant(number=number)):
            masked = vlm.answer_log_probs(vlm.embed(prompts), answers)
        for one, other in zip(masked, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("number", [0.0, 0.7])
def test_an_expert_is_replaced_at_its_own_tokens_alone(number):
    """All hidden units of one of Mixtral's experts; the truth is what gate and up make of them, edited by hand."""
    vlm, prompts, answers = answered("mixtral")
    site = next(s for s in vlm.sites if s.role == "hidden" and s.expert == 1 and s.layer == 1)
    module: Any = vlm.model.get_submodule(site.path)
    with mask(vlm.model, NeuronSet(Neuron(site, i) for i in range(site.width)), Constant(number=number)):
        masked = torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers))
    own, due = module._apply_gate, []  # the experts that are to come in this pass, ascending
    handle = module.register_forward_pre_hook(lambda m, args: due.extend(args[1].unique().tolist()))
    module._apply_gate = lambda x: torch.full_like(own(x), number) if due.pop(0) == 1 else own(x)
    try:
        expected = torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers))
    finally:
        handle.remove()
        del module._apply_gate
    torch.testing.assert_close(masked, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(masked, torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers)), rtol=1e-3, atol=1e-3)


# -- attention heads -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "component", "head"), [
    ("llava", "language", 1), ("gpt2", "language", 0), ("instructblip", "vision", 1), ("qwen2_vl", "vision", 0),
    ("blip_2_t5", "language", 1),
])  # fmt: skip
def test_a_masked_head_is_its_slice_of_the_out_projections_input_at_zero(family, component, head):
    vlm, prompts, answers = answered(family)
    site = vlm.sites.select(component, "head")[0]
    size = site.group

    def edit(module, args):
        x = args[0].clone()
        x[..., head * size : (head + 1) * size] = 0
        return (x, *args[1:])

    handle = vlm.model.get_submodule(site.path).register_forward_pre_hook(edit)
    expected = torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers))
    handle.remove()
    with mask(vlm.model, NeuronSet([Neuron(site, head)])):
        masked = torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers))
    assert torch.equal(masked, expected)
    assert not torch.equal(masked, torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers)))


# -- positions -------------------------------------------------------------------------------------------------------------
MEANS = [10.0, 20.0, 30.0]
EXPECTED = {
    "all": {FIRST: 1, IMAGE: 1, TEXT: 1, GENERATED: 1}, "first": {FIRST: 1}, "image": {IMAGE: 1}, "text": {TEXT: 1},
    "generated": {GENERATED: 1},
}  # fmt: skip


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("positions", list(POSITIONS))
def test_positions_in_prefill_decoding_and_teacher_forcing(positions, per_row):
    """Two left-padded rows of other lengths: a neuron is the constant at the tokens meant and what it was elsewhere."""
    vlm = tiny_models.llava()
    [site] = vlm.sites.select("language", "down", layers=[0])  # nothing in its layer comes after it
    samples = tiny_models.samples(2)
    prompts = [vlm.prompt(samples[0], "What do you see?"), vlm.prompt(samples[1], "Describe this image in detail.")]
    classes = [vlm.token_classes(p) for p in prompts]
    neurons, constant = NeuronSet([Neuron(site, 5)]), Constant(number=7.0, positions=positions)
    seen: list[torch.Tensor] = []
    module = vlm.model.get_submodule(site.path)
    layout, contexts = TokenLayout(), vlm.embed(prompts)
    with mask(vlm.model, [neurons, neurons] if per_row else neurons, constant, layout=layout):
        handle = module.register_forward_hook(lambda m, args, out: seen.append(out[..., 5].clone()))
        layout.expect(classes)
        answers = vlm.generate(contexts, 3)
        layout.expect(classes, [len(a.ids) for a in answers])
        vlm.answer_log_probs(contexts, answers)
        handle.remove()
    prefill, *steps, forced = seen
    assert steps and all(step.shape == (2, 1) for step in steps)
    longest = max(len(c) + len(a.ids) for c, a in zip(classes, answers, strict=True))
    assert forced.shape == (2, longest)
    for row, (own, answer) in enumerate(zip(classes, answers, strict=True)):
        whole = torch.cat([own, torch.full((len(answer.ids),), GENERATED)])
        for values, at in ((prefill[row, -len(own) :], own), (forced[row, longest - len(whole) :], whole)):
            meant = torch.tensor([int(c) in EXPECTED[positions] for c in at])
            assert torch.equal(values == 7.0, meant)
        for step in steps:
            assert bool(step[row, 0] == 7.0) == (GENERATED in EXPECTED[positions])


def test_class_means_count_an_answer_as_text():
    model = ThreeNeurons()
    neurons, statistics = of(model, "down", 0), means(model, "down", [[10.0], [20.0], [30.0]], "class-mean")
    layout = TokenLayout()
    layout.expect([torch.tensor([FIRST, IMAGE, TEXT])], [1])
    with torch.no_grad(), mask(model, neurons, ClassMean(), statistics, layout):
        assert model(X.expand(1, 4, 1))[0, :, 0].tolist() == [10.0, 20.0, 30.0, 30.0]
    with torch.no_grad(), mask(model, neurons, ClassMean(positions="generated"), statistics, layout):
        assert model(X.expand(1, 4, 1))[0, :, 0].tolist() == [-12.0, -12.0, -12.0, 30.0]


def test_the_layout_by_hand():
    """Rows are padded on the left; some modules see the tokens of all rows in one line, as OPT's feed-forward networks do."""
    layout = TokenLayout()
    layout.expect([torch.tensor([FIRST, TEXT]), torch.tensor([FIRST, IMAGE, IMAGE])], [1, 2])
    together = layout.classes((2, 5))
    assert together[0, 2:].tolist() == [FIRST, TEXT, GENERATED]
    assert together[1].tolist() == [FIRST, IMAGE, IMAGE, GENERATED, GENERATED]
    assert torch.equal(layout.classes((10,)), together.flatten())
    assert layout.classes((2,)).tolist() == layout.classes((2, 1)).flatten().tolist() == [GENERATED] * 2, "a decoding step"
    with pytest.raises(NeuronSetError, match=r"expected the activation of 2 rows of 5 tokens; found \(8,\)"):
        layout.classes((8,))


# -- what is not measured, or not meant ------------------------------------------------------------------------------------
@pytest.mark.parametrize("intervention", [Mean(), ClassMean()])
def test_a_mean_that_was_not_measured_is_refused(intervention):
    """Neither without any statistics, nor where another site's, or another statistic, was measured."""
    model = ThreeNeurons()
    neurons = of(model, "gate", 0)
    [name] = intervention.needs
    other = means(model, "up", [1.0, 2.0, 3.0], name)
    wrong = means(model, "gate", [1.0, 2.0, 3.0], "median")
    for statistics in (None, {}, {name: {}}, other, wrong):
        expected = pytest.raises(OptionError, match=rf"needs the {name} of mlp\.gate_proj:gate; it was not measured")
        with expected, mask(model, neurons, intervention, statistics):
            pass
        assert tiny_models.hook_count(model) == 0


def test_an_evaluation_with_a_mean_that_was_not_measured_is_refused():
    vlm = tiny_models.llava()
    samples = tiny_models.samples(1)
    prompts = [vlm.prompt(s, "What do you see?") for s in samples]
    intact = vlm.generate(vlm.embed(prompts), 4)
    measure = Evaluator(vlm, samples, intact, None, MaskedReplies(vlm, prompts, intact, intact, 4, 1))
    neurons = NeuronSet([Neuron(vlm.sites.select("language", "gate")[0], 0)])
    with pytest.raises(OptionError, match=r"needs the mean of .*; it was not measured"):
        measure.many([Request(neurons, Mean())])


@pytest.mark.parametrize(
    ("intervention", "family", "component", "message"),
    [
        (Mean(), "mixtral", "language", "'mean' is not for experts"),
        (Zero(positions="image"), "llava", "vision", "'image' are tokens of the language model, and .* is not in it"),
        (Zero(positions="text"), "blip_2_t5", "language", "'zero@text' is for decoders"),
        (ClassMean(), "blip_2_t5", "language", "'class-mean' is for decoders"),
    ],
)
def test_interventions_that_are_not_for_these_sites(intervention, family, component, message):
    vlm = vlm_of(family)
    sites = vlm.sites.select(component, "hidden")
    with pytest.raises(OptionError, match=message):
        intervention.check(sites, vlm.is_encoder_decoder)
    Zero().check(sites, vlm.is_encoder_decoder)
    assert ("language", "hidden") in built(family).counts


# -- names -----------------------------------------------------------------------------------------------------------------
def test_an_id_says_everything_that_decides_what_is_done():
    assert [Zero().id, Mean().id, ClassMean().id] == ["zero", "mean", "class-mean"]
    assert Scale(factor=0.25).id == "scale(factor=0.25)" and Constant(number=2.0).id == "constant(number=2.0)"
    assert Zero(positions="image").id == "zero@image"
    assert Scale(factor=2.0, positions="first", layers=frozenset({5, 3})).id == "scale(factor=2.0)@first@layers=3,5"
    varied = [
        Zero(), Zero(positions="text"), Zero(layers=frozenset({1})), Zero(layers=frozenset({11})), Scale(), Scale(factor=0.4),
        Constant(), Constant(number=0.5), Mean(), ClassMean(),
    ]  # fmt: skip
    assert len({i.id for i in varied}) == len(varied)


def test_interventions_by_name():
    assert get_intervention("zero") == Zero() and get_intervention("mean", "image", frozenset({2})) == Mean(
        positions="image", layers=frozenset({2})
    )
    assert get_intervention("scale:0.25") == Scale(factor=0.25) and get_intervention("constant:-3") == Constant(number=-3.0)
    assert get_intervention("scale") == Scale(factor=0.5)
    own = Scale(factor=4.0)
    assert get_intervention(own) is own


@pytest.mark.parametrize(
    ("name", "positions", "message"),
    [
        ("median", "all", "mask 'median' is unknown; expected one of zero, mean, class-mean, first-mean, scale, constant"),
        ("scale:much", "all", "mask is 'scale:much'; expected scale:NUMBER"),
        ("zero:1", "all", "mask is 'zero:1'; expected zero alone"), ("mean:", "all", "mask is 'mean:'; expected mean alone"),
        ("zero", "last", "positions is 'last'; expected one of all, first, image, text, generated"),
    ],
)  # fmt: skip
def test_names_that_are_none(name, positions, message):
    with pytest.raises(OptionError, match=message):
        get_intervention(name, positions)


def test_one_of_ones_own_in_ten_lines():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lesion.hooks.intervention.INTERVENTIONS", dict(INTERVENTIONS))

        @register_intervention("clip")
        @dataclass(frozen=True, kw_only=True)
        class Clip(Intervention):
            limit: float = 1.0

            def value(self, x: torch.Tensor, at: Where) -> torch.Tensor:
                return x.clamp(-self.limit, self.limit)

        model = ThreeNeurons()
        assert get_intervention("clip:3").id == "clip(limit=3.0)"
        with torch.no_grad(), mask(model, of(model, "hidden", 0, 1, 2), "clip:3"):
            assert model(X).item() == 3 - 1.5 - 6
        with pytest.raises(ValueError, match="an intervention named 'clip' is registered already"):
            register_intervention("clip")(Clip)
    assert "clip" not in INTERVENTIONS


def test_an_intervention_sees_where_it_stands():
    """The channels that it is asked about are the site's own, also in the half of a fused projection."""
    seen: list[Where] = []

    @dataclass(frozen=True, kw_only=True)
    class Look(Intervention):
        def value(self, x: torch.Tensor, at: Where) -> torch.Tensor:
            seen.append(at)
            return x

    vlm, prompts, answers = answered("phi3")
    [up] = vlm.sites.select("language", "up", layers=[0])
    with mask(vlm.model, NeuronSet([Neuron(up, 4), Neuron(up, 21)]), Look()):
        vlm.answer_log_probs(vlm.embed(prompts), answers)
    assert seen and all(at.site == up and at.channels.tolist() == [4, 21] for at in seen)
    assert Look().id == "Look"
