"""Masks do what they say, at every token and in every decoding step, and leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site
from lesion.hooks.intervene import mask
from lesion.models.layout import TokenLayout
from lesion.models.tokens import CLASSES
from tests import tiny_models

PROMPT = "What do you see?"


def hooks(vlm) -> int:
    """Hooks on the model that are not transformers' own (which adds some at a model's first run)."""
    if not hasattr(vlm, "hooks_before"):
        vlm.hooks_before = 0
        logits(vlm)
        vlm.hooks_before = tiny_models.hook_count(vlm.model)
    return tiny_models.hook_count(vlm.model) - vlm.hooks_before


def logits(vlm, count=2):
    prompts = [vlm.prompt(s, PROMPT) for s in tiny_models.samples(count)]
    inputs = {k: torch.cat([p.inputs[k] for p in prompts]) for k in prompts[0].inputs}
    with torch.inference_mode():
        return vlm.model(**inputs).logits


def some(vlm, role, indices=(1, 5, 7), layer=1, component="language"):
    [site] = vlm.sites.select(component, role, layers=[layer])
    return NeuronSet(Neuron(site, i) for i in indices)


@torch.no_grad()
def test_gate_up_and_hidden_masks_and_edited_weights_are_equal_bit_for_bit(vlm):
    masked = {}
    for role in ("gate", "up", "hidden"):
        with mask(vlm.model, some(vlm, role)):
            masked[role] = logits(vlm)
    intact = logits(vlm)
    path = some(vlm, "hidden").sites[0].path
    weight = vlm.model.get_submodule(path).weight
    kept = weight.clone()
    for name, rows in (("gate", "gate_proj"), ("up", "up_proj")):
        matrix = vlm.model.get_submodule(path.replace("down_proj", rows)).weight
        before = matrix.clone()
        matrix[[1, 5, 7]] = 0
        assert torch.equal(logits(vlm), masked[name]), f"{name}: masking is not zeroing its rows"
        matrix.copy_(before)
    weight[:, [1, 5, 7]] = 0
    edited = logits(vlm)
    weight.copy_(kept)
    assert torch.equal(masked["gate"], masked["up"])
    assert torch.equal(masked["gate"], masked["hidden"])
    assert torch.equal(masked["gate"], edited)
    assert not torch.equal(masked["gate"], intact)


@torch.no_grad()
def test_a_down_mask_is_the_projection_with_its_rows_zeroed(vlm):
    neurons = some(vlm, "down")
    with mask(vlm.model, neurons):
        masked = logits(vlm)
    weight = vlm.model.get_submodule(neurons.sites[0].path).weight
    weight[[1, 5, 7]] = 0
    assert torch.equal(logits(vlm), masked)


def test_masking_several_sites_together_and_nothing(vlm):
    both = some(vlm, "gate", layer=0) | some(vlm, "down", layer=2)
    with mask(vlm.model, some(vlm, "gate", layer=0)), mask(vlm.model, some(vlm, "down", layer=2)):
        nested = logits(vlm)
    with mask(vlm.model, both):
        assert torch.equal(logits(vlm), nested)
    with mask(vlm.model, NeuronSet()):
        nothing = logits(vlm)
    assert torch.equal(nothing, logits(vlm))


def test_vision_and_connector_masks_change_the_logits_and_unreachable_ones_do_not(vlm):
    intact = logits(vlm)
    for site in vlm.sites:
        with mask(vlm.model, NeuronSet(Neuron(site, i) for i in range(site.width))):
            assert torch.equal(logits(vlm), intact) != site.reachable, site


def test_per_sample_masks_equal_one_by_one(vlm):
    sets = [some(vlm, "gate"), NeuronSet(), some(vlm, "down", (0, 2), 0) | some(vlm, "hidden", (3,), 2)]
    with mask(vlm.model, sets):
        together = logits(vlm, 3)
    for row, neurons in enumerate(sets):
        with mask(vlm.model, neurons):
            assert torch.equal(together[row], logits(vlm, 3)[row])


def test_per_sample_masks_need_one_set_a_row(vlm):
    assert hooks(vlm) == 0
    with pytest.raises(NeuronSetError, match="2 sets for an activation of shape"), mask(vlm.model, [some(vlm, "gate")] * 2):
        logits(vlm, 3)
    assert hooks(vlm) == 0


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("role", ["gate", "hidden", "down"])
def test_class_means_go_to_the_tokens_of_their_class(vlm, role, per_row):
    """In the prefill of two left-padded rows, in decoding steps, and in teacher forcing with answers of two lengths."""
    neurons = some(vlm, role, (5,))
    [site] = neurons.sites
    samples = tiny_models.samples(2)
    prompts = [vlm.prompt(samples[0], PROMPT), vlm.prompt(samples[1], "Describe this image in detail.")]
    classes = [vlm.token_classes(p) for p in prompts]
    for prompt, found in zip(prompts, classes, strict=True):
        ids = prompt.inputs["input_ids"][0]
        assert found[0] == 0 and len(found) == len(ids)
        assert torch.equal(found[1:] == 1, ids[1:] == vlm.model.config.image_token_id)
    values = np.zeros((len(CLASSES), site.width))
    values[:, 5] = [10.0, 20.0, 30.0]
    seen = []

    def see(module, args, output=None):
        seen.append((args[0] if output is None else output)[..., 5].clone())

    layout, embeds = TokenLayout(), vlm.embed(prompts)
    rows = [neurons, neurons] if per_row else neurons
    module = vlm.model.get_submodule(site.path)
    with mask(vlm.model, rows, "class-mean", {"class-mean": {site.key: values}}, layout):
        handle = (module.register_forward_pre_hook if site.side == "input" else module.register_forward_hook)(see)
        layout.expect(classes)
        answers = vlm.generate(embeds, 3)
        layout.expect(classes, [len(a.ids) for a in answers])
        vlm.answer_log_probs(embeds, answers)
    handle.remove()
    *generating, forced = seen
    for row, found in enumerate(classes):
        expected = torch.tensor([10.0, 20.0, 30.0])[found]
        assert torch.equal(generating[0][row, -len(found) :], expected)
        text = torch.full((len(answers[row].ids),), 30.0)
        longest = max(len(c) + len(a.ids) for c, a in zip(classes, answers, strict=True))
        assert forced.shape[1] == longest
        assert torch.equal(forced[row, longest - len(found) - len(text) :], torch.cat([expected, text]))
    assert len(generating) > 1
    for step in generating[1:]:
        assert torch.equal(step, torch.full_like(step, 30.0))


def test_class_means_need_the_layout_of_what_is_run(vlm):
    neurons = some(vlm, "gate")
    [site] = neurons.sites
    means = {"class-mean": {site.key: np.zeros((len(CLASSES), site.width))}}
    missing = pytest.raises(OptionError, match="needs the layout of the tokens; found none")
    with missing, mask(vlm.model, neurons, "class-mean", means):
        logits(vlm)
    layout = TokenLayout()
    layout.expect([torch.zeros(3, dtype=torch.long)])
    wrong = pytest.raises(NeuronSetError, match="the activation of 1 rows of 3 tokens; found")
    with wrong, mask(vlm.model, neurons, "class-mean", means, layout):
        logits(vlm)
    assert hooks(vlm) == 0


def test_masks_act_in_prefill_and_in_every_decoding_step(vlm):
    """With a cache, generation equals running the whole sequence anew at every step, under the same mask."""
    neurons = some(vlm, "gate", range(12)) | some(vlm, "down", range(4), 0)
    prompt = vlm.prompt(tiny_models.samples(1)[0], PROMPT)
    [embeds] = vlm.embed([prompt])
    steps = []
    down = vlm.model.get_submodule(next(s for s in neurons.sites if s.role == "down").path)
    with mask(vlm.model, neurons):
        handle = down.register_forward_hook(lambda m, a, out: steps.append(out[..., :4].abs().max().item()))
        [answer] = vlm.generate([embeds], 8)
        handle.remove()
        table, ids = vlm.model.get_input_embeddings(), []
        for _ in answer.ids:
            rows = torch.cat([embeds, table(torch.tensor(ids, dtype=torch.long))])[None]
            ones = torch.ones(rows.shape[:2], dtype=torch.long)
            with torch.inference_mode():
                out = vlm.engine._generator(inputs_embeds=rows, attention_mask=ones, use_cache=False)
            ids.append(int(out.logits[0, -1].argmax()))
    [intact] = vlm.generate([embeds], 8)
    assert list(answer.ids) == ids
    assert answer.ids != intact.ids, "the mask must change the answer, or this test shows nothing"
    assert len(steps) == len(answer.ids)
    assert steps == [0.0] * len(steps)


def test_hooks_are_gone_after_success_and_after_an_exception(vlm):
    assert hooks(vlm) == 0
    with mask(vlm.model, some(vlm, "gate") | some(vlm, "hidden")):
        assert hooks(vlm) == 2
    assert hooks(vlm) == 0
    with pytest.raises(ZeroDivisionError), mask(vlm.model, some(vlm, "gate")):
        raise ZeroDivisionError
    assert hooks(vlm) == 0


def test_hooks_are_gone_after_a_generator_is_dropped(vlm):
    assert hooks(vlm) == 0

    def answers():
        with mask(vlm.model, some(vlm, "gate")):
            while True:
                yield logits(vlm)

    running = answers()
    next(running)
    assert hooks(vlm) == 1
    del running
    assert hooks(vlm) == 0


def test_hooks_are_gone_when_registering_fails_half_way(vlm):
    assert hooks(vlm) == 0
    wrong = Site("model.nowhere", "language", "up", 9, 4)
    with (
        pytest.raises(NeuronSetError, match=r"no module 'model\.nowhere'"),
        mask(vlm.model, some(vlm, "gate") | NeuronSet([Neuron(wrong, 1)])),
    ):
        pass
    assert hooks(vlm) == 0


def test_the_users_own_hooks_stay(vlm):
    called = []
    module = vlm.model.get_submodule(some(vlm, "gate").sites[0].path)
    handle = module.register_forward_hook(lambda m, a, out: called.append(1))
    with mask(vlm.model, some(vlm, "gate")):
        pass
    logits(vlm)
    assert called
    handle.remove()


def test_a_site_of_another_width_is_refused(vlm):
    site = some(vlm, "gate").sites[0]
    wide = Site(site.path, site.component, site.role, site.layer, site.width + 1)
    with (
        pytest.raises(NeuronSetError, match=f"should have {site.width + 1} channels; its module gives {site.width}"),
        mask(vlm.model, NeuronSet([Neuron(wide, 0)])),
    ):
        logits(vlm)
