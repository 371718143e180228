"""The evaluator's numbers against the model's own, and against hand-written ones."""

from __future__ import annotations

import math

import pytest
import torch

from lesion.ablation.evaluator import Evaluator
from lesion.ablation.replies import MaskedReplies
from lesion.core.metrics import summarise
from lesion.core.neurons import Neuron, NeuronSet
from tests import tiny_models

PROMPT = "What do you see?"


def evaluator(vlm, count=4, clip=None, batch_size=2, samples=None):
    samples = samples or tiny_models.samples(count)
    prompts = [vlm.prompt(s, PROMPT) for s in samples]
    intact = vlm.generate(vlm.embed(prompts), 8)
    return Evaluator(vlm, samples, intact, clip, MaskedReplies(vlm, prompts, intact, intact, 8, batch_size))


def gates(vlm, count=20, component="language"):
    site = vlm.sites.select(component, "hidden", reachable_only=True)[0]
    return NeuronSet(Neuron(site, i) for i in range(count))


def test_ppl_reference_is_the_models_own_loss(vlm):
    """``model(labels=...)`` on the processor's inputs with the answer appended, intact and masked."""
    measure = evaluator(vlm, 1)
    from lesion.hooks.intervene import mask

    for neurons in (NeuronSet(), gates(vlm)):
        [outcome] = measure(neurons).outcomes
        inputs, ids = dict(vlm.prompt(measure.samples[0], PROMPT).inputs), torch.tensor([measure.intact[0].ids])
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        labels = inputs["input_ids"].clone()
        labels[:, :length] = -100
        with torch.inference_mode(), mask(vlm.model, neurons):
            loss = vlm.model(**inputs, labels=labels).loss.item()
        assert outcome.reference.nll == pytest.approx(loss, rel=1e-5)
        assert outcome.reference.tokens == len(measure.intact[0].ids)
        assert summarise([outcome])["ppl_reference"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_the_intact_model_agrees_with_itself(vlm):
    for outcome in evaluator(vlm)(NeuronSet()).outcomes:
        assert outcome.exact and outcome.agreement == 1 and outcome.mode in ("intact", "empty")
        assert outcome.kl == pytest.approx(0, abs=1e-6)
        assert outcome.generated == outcome.generated_intact == outcome.reference


def test_a_mask_moves_what_it_should(vlm):
    for outcome in evaluator(vlm)(gates(vlm)).outcomes:
        assert outcome.kl is not None and outcome.kl > 1e-6
        assert outcome.reference.nll != outcome.generated_intact.nll


def test_batch_size_does_not_change_the_numbers(vlm):
    one, four = (evaluator(vlm, 4, batch_size=size)(gates(vlm)).outcomes for size in (1, 4))
    for a, b in zip(one, four, strict=True):
        assert a.answer == b.answer
        assert a.reference.nll == pytest.approx(b.reference.nll, rel=1e-4)
        assert a.generated_intact.nll == pytest.approx(b.generated_intact.nll, rel=1e-4)


def test_language_masks_do_not_run_the_vision_tower_again(vlm):
    calls = []
    first = vlm.model.get_submodule(vlm.sites.select("vision", "hidden")[0].path)
    measure = evaluator(vlm, 4)
    handle = first.register_forward_hook(lambda m, a, out: calls.append(len(out)))
    for size in (0, 1, 5):
        measure(gates(vlm, size))
    assert sum(calls) == 4, "each image once, for all language masks together"
    measure(gates(vlm, 2, "vision"))
    handle.remove()
    assert sum(calls) == 8, "a vision mask needs the vision tower"


def test_vision_masks_act(vlm):
    measure = evaluator(vlm)
    before, after = measure(NeuronSet()), measure(gates(vlm, 20, "vision"))
    assert before.nll.tolist() != after.nll.tolist()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_recorded_as_such(vlm, poison):
    measure = evaluator(vlm, 2)
    head = vlm.engine._generator.get_output_embeddings()
    handle = head.register_forward_hook(lambda m, a, out: out.index_fill(-1, torch.tensor([5]), poison))
    outcomes = measure(NeuronSet()).outcomes
    handle.remove()
    assert [j.reference.nll for j in outcomes] == [None, None]
    assert all(j.kl is None for j in outcomes)
    metrics = summarise(outcomes)
    assert metrics["ppl_reference"] is None and metrics["nll_reference"] is None


def test_greedy_answers_equal_the_models_own_generate(vlm):
    sample = tiny_models.samples(1)[0]
    prompt = vlm.prompt(sample, PROMPT)
    [answer] = vlm.generate(vlm.embed([prompt]), 8)
    with torch.inference_mode():
        image = [vlm.model.config.image_token_id]
        output = vlm.model.generate(**prompt.inputs, max_new_tokens=8, do_sample=False, suppress_tokens=image)
    assert output[0].tolist()[-len(answer.ids) :] == list(answer.ids)
