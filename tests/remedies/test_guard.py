"""A guard of tiny-llava's planted units: it mends weights while the model runs, and holds activations in their ranges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lesion import load
from lesion.ablation.replies import MaskedReplies
from lesion.ablation.units import Request
from lesion.cli.app import app
from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.hooks.edit import BitFlip
from lesion.hooks.fault import ActivationFault
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import FirstMean
from lesion.models.inputs import Prompt, collate
from lesion.models.tokens import FIRST
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.followed import FollowedLayout, followed
from lesion.remedies.guard import Guard
from lesion.remedies.ranges import SiteRange, statistics
from tests.hooks.test_edit import state
from tests.models.test_families import prompts_of, vlm_of
from tests.remedies.test_harden import CRITICAL, PROMPT, critical

GATE = "model.language_model.layers.1.mlp.gate_proj.weight"
LONGEST = 12


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")


@pytest.fixture(scope="module")
def guard(vlm: VisionLanguageModel) -> Guard:
    return Guard.make(vlm, critical(vlm), load_samples("scenes", 8), PROMPT, LONGEST)


def asked(vlm: VisionLanguageModel, count: int = 4, seed: int = 5) -> list[Prompt]:
    """Other samples than ranges are learnt on."""
    return [vlm.prompt(sample, PROMPT) for sample in load_samples("scenes", count, seed=seed)]


def batched(vlm: VisionLanguageModel, prompts: Sequence[Prompt], side: Any = "left") -> dict[str, Any]:
    return collate([prompt.inputs for prompt in prompts], 0, side)


def answers(vlm: VisionLanguageModel, prompts: Sequence[Prompt], **more: Any) -> list[list[int]]:
    """Of transformers' own generate()."""
    inputs = batched(vlm, prompts)
    found = vlm.model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False, **more)
    return found[:, inputs["input_ids"].shape[1] :].tolist()


def flip(vlm: VisionLanguageModel, index: tuple[int, int], bit: int = 30) -> None:
    with torch.no_grad():
        BitFlip(GATE, index, bit).apply(vlm.model)


# -- watching ----------------------------------------------------------------------------------------------------------
def test_what_was_damaged_before_is_mended_before_the_first_pass(vlm: VisionLanguageModel, guard: Guard):
    prompts, before = asked(vlm), state(vlm.model)
    clean, told = answers(vlm, prompts), []
    for index in CRITICAL:
        flip(vlm, (index, 3))
    with guard.watching(vlm.model, every=5, tell=told.append) as watch:
        assert len(guard.check(vlm.model)) == 4 and not watch.passes
        assert answers(vlm, prompts, min_new_tokens=LONGEST) is not None and state(vlm.model) == before
    assert (watch.passes, watch.checks) == (LONGEST, 3)  # passes 0, 5 and 10
    assert [d.line.at for d in watch.found] == list(CRITICAL) and told == [watch.found]
    with guard.watching(vlm.model) as watch:
        assert answers(vlm, prompts) == clean
    assert watch.checks == watch.passes and not watch.found


@pytest.mark.parametrize(("every", "mended"), [(1, 5), (2, 6), (3, 6), (7, 7)])
def test_damage_while_it_writes_is_mended_at_the_next_check(vlm: VisionLanguageModel, guard: Guard, every: int, mended: int):
    """A bit flips behind pass 4 (of passes 0, 1, ...)."""
    before, passes, whole = state(vlm.model), [], []

    def strike(*_: Any) -> None:
        whole.append(not guard.check(vlm.model))
        passes.append(0)
        if len(passes) == 5:
            flip(vlm, (CRITICAL[0], 7))

    handle = vlm.model.register_forward_hook(strike)
    try:
        with guard.watching(vlm.model, every) as watch:
            answers(vlm, asked(vlm, 2), min_new_tokens=LONGEST)
    finally:
        handle.remove()
    assert whole == [not 5 <= number < mended for number in range(LONGEST)]
    assert watch.passes == LONGEST and watch.checks == -(-LONGEST // every) and len(watch.found) == 1
    assert state(vlm.model) == before


def test_nothing_is_left_behind(vlm: VisionLanguageModel, guard: Guard):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules()]
    with pytest.raises(ZeroDivisionError), guard.watching(vlm.model), guard.ranged(vlm), guard.reinserted(vlm):
        raise ZeroDivisionError
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules()] == hooks
    with pytest.raises(OptionError, match="every is 0; expected a check at least every 1 passes"), guard.watching(vlm.model, 0):
        pass


# -- ranges ------------------------------------------------------------------------------------------------------------
def test_clean_answers_stay_as_they_are(vlm: VisionLanguageModel, guard: Guard):
    """On samples that ranges were not learnt on, token by token and to the bit."""
    prompts = asked(vlm, 8)
    inputs = batched(vlm, prompts)
    with torch.no_grad():
        clean = vlm.model(**inputs).logits
        with guard.ranged(vlm):
            assert torch.equal(vlm.model(**inputs).logits, clean)
    expected = answers(vlm, prompts)
    with guard.ranged(vlm):
        assert answers(vlm, prompts) == expected
    assert len({tuple(row) for row in expected}) > 1


@pytest.mark.parametrize("fault", [ActivationFault(action="zero"), ActivationFault(bit=30)], ids=lambda f: f.id)
def test_a_fault_behind_which_ranges_stand_no_longer_collapses(vlm: VisionLanguageModel, guard: Guard, fault: ActivationFault):
    """The planted units are all lost, or have a wrong bit in the exponent: ten times the perplexity and more, and without."""
    prompts = asked(vlm)
    intact = vlm.generate(vlm.embed(prompts), LONGEST)
    inputs = next(iter(vlm.batches(prompts, intact, 4)))

    def loss() -> float:
        with torch.no_grad():
            return float(inputs.losses().mean())

    clean = loss()
    with mask(vlm.model, guard.neurons, fault):
        assert not loss() < clean + 2.3
        with guard.ranged(vlm):
            assert loss() < clean + 1
    assert loss() == clean


def test_ranges_are_of_what_was_seen(vlm: VisionLanguageModel, guard: Guard):
    (site,), (own,) = guard.neurons.sites, guard.ranges.values()
    assert own.channels.tolist() == list(CRITICAL) and (own.low <= own.high).all()
    assert (own.low[0] <= own.first).all() and (own.first <= own.high[0]).all()
    found = statistics(guard.ranges, vlm.sites)
    assert found["low"][site.key].shape == (2, site.width) and found["class-mean"][site.key][FIRST, CRITICAL[1]] == own.first[1]
    others = [i for i in range(site.width) if i not in CRITICAL]
    assert (found["low"][site.key][:, others] == -float("inf")).all() and not found["class-mean"][site.key][:, others].any()
    assert statistics({"another model's": own}, vlm.sites) == {"low": {}, "high": {}, "class-mean": {}}


def test_ranges_need_a_decoder_of_the_language_model(vlm: VisionLanguageModel):
    site = next(s for s in vlm.sites if (s.component, s.role) == ("vision", "hidden"))
    guard = Guard.make(vlm, NeuronSet([Neuron(site, 0)]), load_samples("scenes", 2), PROMPT, 2)
    assert guard.check(vlm.model) == []
    for context in (guard.ranged(vlm), guard.reinserted(vlm)):
        with pytest.raises(OptionError, match="tells the first token apart"), context:
            pass
    encoding = vlm_of("blip_2_t5")
    own = next(s for s in encoding.sites if s.component == "language" and s.role == "gate")
    neurons = NeuronSet([Neuron(own, 0)])
    bare = Guard(neurons, guard.weights, {own.key: next(iter(guard.ranges.values()))})
    for context in (bare.ranged(encoding), bare.reinserted(encoding)):
        with pytest.raises(OptionError, match="is for decoders: this model's prompt is read by an encoder"), context:
            pass


# -- one constant ------------------------------------------------------------------------------------------------------
def test_constants_in_a_plain_generate_are_what_the_evaluator_measures(vlm: VisionLanguageModel, guard: Guard):
    prompts = asked(vlm)
    inputs = batched(vlm, prompts)
    with guard.reinserted(vlm):
        said = vlm.model.generate(
            **inputs, max_new_tokens=LONGEST, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    ids, logits = said.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(said.logits, 1).log_softmax(-1)
    intact = vlm.generate(vlm.embed(prompts), LONGEST)
    replies = MaskedReplies(vlm, prompts, intact, intact, LONGEST, 4, statistics(guard.ranges, vlm.sites))
    (found,) = [group[0] for group in replies([Request(guard.neurons, FirstMean())])]
    for row, one in enumerate(found):
        own = one.answer.ids
        assert tuple(ids[row, : len(own)].tolist()) == own
        nll = [-logits[row, i, token].item() for i, token in enumerate(own)]
        assert one.generated.nll == pytest.approx(sum(nll) / len(nll), rel=1e-4, abs=1e-5)


# -- where the first tokens are ----------------------------------------------------------------------------------------
def places(layout: FollowedLayout, shape: tuple[int, int]) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in layout.classes(shape) == FIRST]


def test_the_first_token_by_hand():
    layout, x = FollowedLayout(), torch.zeros(2, 4, 8)
    left, right = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    layout.see((), {"inputs_embeds": x, "attention_mask": left})
    assert places(layout, (2, 4)) == [[2], [0]]
    assert (layout.classes((8,)) == FIRST).nonzero().flatten().tolist() == [2, 4]
    layout.see((), {"inputs_embeds": x, "attention_mask": right})
    assert places(layout, (2, 4)) == [[0], [0]]
    layout.see((torch.zeros(2, 4, dtype=torch.long),), {})
    assert places(layout, (2, 4)) == [[0], [0]]
    for held in (4, 5):  # a step, and several tokens at once: the first token is in the cache
        cache = SimpleNamespace(get_seq_length=lambda held=held: held)
        longer = torch.cat([left, torch.ones(2, held - 2, dtype=torch.long)], 1)
        layout.see((), {"inputs_embeds": x[:, :2], "attention_mask": longer, "past_key_values": cache})
        assert places(layout, (2, 2)) == [[], []]
    empty = SimpleNamespace(get_seq_length=lambda: 0)
    layout.see((), {"inputs_embeds": x, "attention_mask": left.bool(), "past_key_values": empty})
    assert places(layout, (2, 4)) == [[2], [0]] and places(layout, (3, 4)) == [[], [], []]
    layout.see((), {})
    assert places(layout, (2, 4)) == [[], []]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llava", "gpt2", "gemma3", "paligemma", "qwen2_vl", "mllama", "instructblip"])
def test_the_first_token_in_batches_of_other_peoples_passes(family: str, side: Any):
    """Two prompts of other lengths; the decoder of some is called with masks of four dimensions."""
    vlm = vlm_of(family)
    inputs = collate([prompt.inputs for prompt in prompts_of(vlm)], 0, side)
    shown, seen = inputs["attention_mask"], []
    path = vlm.structure.decoder
    with followed(vlm) as layout:

        def look(_: Any, args: Any, kwargs: Any) -> None:
            given = next(x for x in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args) if x is not None)
            seen.append(places(layout, tuple(given.shape[:2])))

        handle = vlm.model.get_submodule(path).register_forward_pre_hook(look, with_kwargs=True)
        try:
            vlm.model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        finally:
            handle.remove()
    assert len(seen) == 3 and (shown == 0).any()
    assert seen[0] == [[row.index(1)] for row in shown.tolist()]
    assert seen[1:] == [[[], []]] * 2


# -- files and commands ------------------------------------------------------------------------------------------------
def test_a_file_keeps_what_is_in_it(vlm: VisionLanguageModel, guard: Guard, tmp_path: Path):
    guard.save(tmp_path / "guard")
    read = Guard.load(tmp_path / "guard")
    assert read.neurons == guard.neurons and read.dtype == "float32" and read.ranges.keys() == guard.ranges.keys()
    for key, own in guard.ranges.items():
        assert all((getattr(read.ranges[key], name) == getattr(own, name)).all() for name in SiteRange.__dataclass_fields__)
    flip(vlm, (CRITICAL[2], 0))
    assert [d.line.at for d in read.repair(vlm.model)] == [CRITICAL[2]] and read.check(vlm.model) == []
    guard.weights.save(tmp_path / "bare")
    with pytest.raises(ModelError, match="is no guard, or damaged; expected a file that `lesion guard make` wrote"):
        Guard.load(tmp_path / "bare")


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["guard", *map(str, words)])


def test_the_commands(vlm: VisionLanguageModel, tmp_path: Path):
    critical(vlm).save(tmp_path / "set.json")
    held, damaged, whole = tmp_path / "new" / "guard", tmp_path / "damaged", tmp_path / "whole"
    few = ("--samples", "2", "--max-new-tokens", "4")
    made = run("make", "tiny-llava", tmp_path / "set.json", held, *few, "--json")
    assert made.exit_code == 0, made.stderr
    about = json.loads(made.stdout)
    assert (about["neurons"], about["lines"], about["entries"], about["bytes"]) == (4, 12, 2304, 9216)
    again = run("make", "tiny-llava", tmp_path / "set.json", held, *few)
    assert again.exit_code == 2 and "is there; choose a folder that is not" in again.stderr
    clean = run("check", "tiny-llava", held)
    assert clean.exit_code == 0 and clean.stdout.startswith("0 of 12 guarded rows and columns damaged")
    flip(vlm, (CRITICAL[0], 3))
    flip(vlm, (CRITICAL[0], 4), 2)
    vlm.model.save_pretrained(damaged)
    vlm.processor.save_pretrained(damaged)
    Guard.load(held).repair(vlm.model)
    found = run("check", damaged, held, "--json")
    line = {"parameter": GATE, "dim": 0, "at": CRITICAL[0], "entries": 2}
    assert found.exit_code == 1 and json.loads(found.stdout) == {"lines": 12, "damages": [line]}
    mended = run("repair", damaged, held, whole, *few)
    assert mended.exit_code == 0, mended.stderr
    assert mended.stdout.replace("\n", " ").startswith(f"1 of 12 guarded rows and columns repaired, in {whole}")
    assert run("check", whole, held).exit_code == 0
    assert state(load(str(whole)).model) == state(vlm.model)
    for words, message in [
        (("check", "tiny-llava", tmp_path / "none"), "no guard at"),
        (("check", "tiny-llava", held, "--dtype", "bfloat16"), "give the guard's --dtype"),
        (("check", "tiny-instructblip", held), "the model has no parameter"),
        (("repair", "tiny-llava", held, whole), "is there; choose a folder that is not"),
        (("repair", "tiny-llava", tmp_path / "set.json", tmp_path / "x"), "is no guard, or damaged"),
    ]:
        done = run(*words)
        lines = [line for line in done.stderr.splitlines() if not line.startswith(("warning:", "["))]
        assert done.exit_code == 2 and len(lines) == 1 and message in lines[0], (words, done.stderr)
    assert not (tmp_path / "x").exists()
