"""A model is studied as it is and given back as it was, and asked in the ways that a notebook asks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lesion
from lesion.ablation.clip import ClipScorer
from lesion.core.errors import DataError, OptionError
from lesion.data.samples import DEFAULT_PROMPT, Sample
from lesion.models.vlm import VisionLanguageModel
from lesion.scoring.score import score
from tests import tiny_models
from tests.families.__main__ import BUILDERS
from tests.models.test_families import picture, prompts_of

FAMILIES = ("llava", "instructblip", "mixtral", "qwen3_vl_moe", "florence2")


# -- left as it was --------------------------------------------------------------------------------------------------------
def restless(family: str) -> VisionLanguageModel:
    """A model as somebody trains it: some weights frozen, some modules in training mode, experts by a function of its own."""
    built = BUILDERS[family]()
    vlm = VisionLanguageModel(built.model, built.processor, family)
    vlm.generate(vlm.embed(prompts_of(vlm)), 1)  # transformers adds hooks of its own at a model's first run
    for i, parameter in enumerate(vlm.model.parameters()):
        parameter.requires_grad_(i % 3 != 0)
    for i, module in enumerate(vlm.model.modules()):
        module.training = i % 2 == 0
    with contextlib.suppress(AttributeError, ValueError):
        vlm.model.set_experts_implementation("batched_mm")
    return vlm


def condition(model: Any) -> dict[str, Any]:
    """Everything about a model that studying it could change, but for its weights."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return {
        "asks for gradients": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "experts": [getattr(c, "_experts_implementation", None) for c in configs.values()],
        "attention": [getattr(c, "_attn_implementation", None) for c in configs.values()],
        "generation": model.generation_config.to_dict(),
        "hooks": [sorted(map(id, (*m._forward_hooks.values(), *m._forward_pre_hooks.values()))) for m in model.modules()],
        "names": sorted(vars(model)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_given_back_as_it_was(family):
    vlm = restless(family)
    prompts = prompts_of(vlm)
    before, weights = condition(vlm.model), vlm.identity()
    contexts = vlm.embed(prompts)
    assert condition(vlm.model) == before
    answers = vlm.generate(contexts, 4)
    assert condition(vlm.model) == before
    vlm.answer_log_probs(contexts, answers)
    assert condition(vlm.model) == before
    score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), ("can", "activation", "perturbation"))
    score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), "activation")
    assert condition(vlm.model) == before
    assert vlm.identity() == weights


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_given_back_as_it_was_when_it_fails(family):
    vlm = restless(family)
    prompts = prompts_of(vlm)
    before = condition(vlm.model)
    contexts = vlm.embed(prompts)
    answers = vlm.generate(contexts, 2)
    handle = vlm.model.get_output_embeddings().register_forward_hook(lambda *_: 1 / 0)
    before_with_hook = condition(vlm.model)
    for run in (
        lambda: vlm.generate(contexts, 2),
        lambda: vlm.answer_log_probs(contexts, answers),
        lambda: score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2)),
    ):
        with pytest.raises(ZeroDivisionError):
            run()
        assert condition(vlm.model) == before_with_hook
    handle.remove()
    assert condition(vlm.model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_frozen_and_without_dropout_while_it_runs(family):
    vlm = restless(family)
    prompts = prompts_of(vlm)
    seen: list[tuple[bool, bool]] = []

    def look(module: Any, args: Any) -> None:
        seen.append((any(m.training for m in vlm.model.modules()), any(p.requires_grad for p in vlm.model.parameters())))

    handle = vlm.model.get_submodule(vlm.sites.select("language", "down")[0].path).register_forward_pre_hook(look)
    if next(s for s in vlm.sites if s.component == "language").expert is not None:
        handle.remove()
        handle = vlm.model.get_input_embeddings().register_forward_pre_hook(look)
    answers = vlm.generate(vlm.embed(prompts), 2)
    vlm.answer_log_probs(vlm.embed(prompts), answers)
    score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), "can")
    handle.remove()
    assert len(seen) >= 3 and set(seen) == {(False, False)}


# -- generation ------------------------------------------------------------------------------------------------------------
# What checkpoints are published with, and what some set by hand.
OWN: dict[str, Any] = {
    "num_beams": 3, "do_sample": True, "temperature": 3.0, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2,
    "min_new_tokens": 5, "max_length": 7, "forced_bos_token_id": 9, "forced_eos_token_id": 3, "bad_words_ids": [[57], [91]],
    "begin_suppress_tokens": [57, 91], "suppress_tokens": [57, 91, 35], "guidance_scale": 2.0, "max_time": 1e-4,
    "return_dict_in_generate": True, "num_return_sequences": 2, "prompt_lookup_num_tokens": 2,
}  # fmt: skip


@pytest.mark.parametrize("family", ["llava", "llama", "florence2", "qwen2_vl"])
def test_answers_are_greedy_whatever_the_checkpoints_own_configuration_says(family):
    """And that is read but never written: it is the same object, with the same entries, in every forward pass."""
    built = BUILDERS[family]()
    vlm = VisionLanguageModel(built.model, built.processor, family)
    prompts, own = prompts_of(vlm), vlm.model.generation_config
    plain = own.to_dict()
    for name in OWN:
        setattr(own, name, None)
    answers = vlm.generate(vlm.embed(prompts), 4)
    log_probs = vlm.answer_log_probs(vlm.embed(prompts), answers)
    for name, value in OWN.items():
        setattr(own, name, value)
    before = own.to_dict()
    changed: list[bool] = []
    handle = vlm.model.get_output_embeddings().register_forward_hook(
        lambda *_: changed.append(vlm.model.generation_config is not own or own.to_dict() != before)
    )
    assert vlm.generate(vlm.embed(prompts), 4) == answers
    for one, other in zip(vlm.answer_log_probs(vlm.embed(prompts), answers), log_probs, strict=True):
        assert torch.equal(one, other)
    handle.remove()
    assert changed and not any(changed)
    assert own.to_dict() == before and set(plain) <= set(before)


# -- asking ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_an_image_and_a_text(mode):
    vlm = tiny_models.llava()
    image = picture(0, (30, 20)).picture.convert(mode)
    prompt = vlm.prompt(image, "a big red car")
    expected = vlm.prompt(Sample("image", image.convert("RGB")), "a big red car")
    assert prompt.inputs.keys() == expected.inputs.keys()
    assert all(torch.equal(prompt.inputs[name], expected.inputs[name]) for name in prompt.inputs)
    [answer] = vlm.generate(vlm.embed([prompt]), 3)
    assert answer.ids


def test_what_is_asked_where_nothing_else_is_said():
    vlm = tiny_models.llava()
    image = Image.new("RGB", (24, 24))
    default, own = Sample("a", image), Sample("a", image, prompt="is it red ?")

    def ids(*arguments: Any) -> list[int]:
        return vlm.prompt(*arguments).inputs["input_ids"][0].tolist()

    assert ids(default) == ids(image) == ids(image, DEFAULT_PROMPT) == ids(default, DEFAULT_PROMPT)
    assert ids(own) == ids(own, "a big dog") == ids(default, "is it red ?") != ids(default)
    with pytest.raises(DataError, match="sample a has no image"):
        vlm.prompt(Sample("a", None), "is it red ?")


def test_scoring_by_one_name():
    vlm = tiny_models.llava()
    prompts = [vlm.prompt(s.picture, "What do you see?") for s in tiny_models.samples(2)]
    answers = vlm.generate(vlm.embed(prompts), 4)
    one = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), "can")
    assert list(one) == ["can"]
    ranking = lesion.Ranking(one["can"], vlm.sites.select("language", "gate"))
    assert len(ranking[:20]) == 20 and ranking[0] in ranking[:20]
    with pytest.raises(OptionError, match="scorer 'c' is unknown"):
        score(vlm.model, vlm.sites, [], "c")


def test_a_head_is_the_sum_of_its_channels_by_hand():
    """CAN of LLaVA's language heads, with activations and gradients that the test itself catches."""
    vlm = tiny_models.llava()
    [prompt] = [vlm.prompt(s, "What do you see?") for s in tiny_models.samples(1)]
    answers = vlm.generate(vlm.embed([prompt]), 4)
    importance = score(vlm.model, vlm.sites, vlm.batches([prompt], answers, 1), ("can", "wanda"))
    [site] = vlm.sites.select("language", "head", layers=[1])
    module: Any = vlm.model.get_submodule(site.path)
    caught: list[torch.Tensor] = []

    def catch(_: Any, args: Any) -> None:
        caught.append(args[0])
        args[0].retain_grad()

    handle = module.register_forward_pre_hook(catch)
    [batch] = vlm.batches([prompt], answers, 1)
    batch.losses().sum().backward()
    handle.remove()
    [x] = caught  # [1, tokens, heads * size]
    assert x.grad is not None
    channels = (x * x.grad).abs()[0].mean(0).detach()
    np.testing.assert_allclose(importance["can"].values(site), channels.unflatten(0, (2, 8)).sum(1).numpy(), rtol=1e-4)
    written = x.detach().abs()[0].mean(0) * module.weight.detach().norm(dim=0)
    np.testing.assert_allclose(importance["wanda"].values(site), written.unflatten(0, (2, 8)).sum(1).numpy(), rtol=1e-4)


# -- in silence ------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def bars_wanted() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        yield
        assert logging.is_progress_bar_enabled(), "whoever had bars on has them again"
    finally:
        if not shown:
            logging.disable_progress_bar()


def test_loading_draws_no_bars(capfd):
    with bars_wanted():
        for name in ("tiny-llava", "tiny-instructblip"):
            lesion.load(name)
        ClipScorer("tiny-clip", "cpu")
    assert capfd.readouterr() == ("", "")
