"""What is left out, drafted and batched changes no answer: against the plain way, one mask and one token after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.ablation.replies import MaskedReplies, Said
from lesion.ablation.units import Request
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.outcome import Likelihood
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import ClassMean, Constant, Scale, Zero
from lesion.models import beginnings
from lesion.models.beginnings import Beginning
from lesion.models.decoding import chosen
from lesion.models.layout import TokenLayout
from lesion.models.trunk import Intact
from tests.families.__main__ import vlm_of
from tests.models.test_families import picture

LONGEST = 12


PROMPTS = ("What do you see ?", "a big red car is at the top .", "is there a dog ?", "What is it ?")
AT_SOME = [Constant(number=3.0, positions=positions) for positions in ("first", "generated")]
SAMPLES = [picture(i, size) for i, size in enumerate([(48, 32), (26, 50), (40, 40), (32, 32)])]


def ask(vlm, batch_size=4, kept=2**30, statistics=None, references=None, samples=SAMPLES) -> MaskedReplies:
    prompts = [vlm.prompt(sample, prompt) for sample, prompt in zip(samples, PROMPTS, strict=True)]
    intact = vlm.generate(vlm.embed(prompts), LONGEST)
    return MaskedReplies(vlm, prompts, intact, references or intact, LONGEST, batch_size, statistics or {}, kept=kept)


def requests(vlm, count, seed=0, intervention=None, largest=8, first_layer=0):
    """Random sets of the language model's neurons, of all roles."""
    rng = np.random.default_rng(seed)
    neurons = [n for s in vlm.sites.select("language", reachable_only=True) if s.layer >= first_layer for n in all_of(s)]
    sizes = rng.integers(0, largest, count)
    act = intervention or Scale(factor=-4.0)  # harms even random models' answers
    return [Request(NeuronSet([neurons[i] for i in rng.choice(len(neurons), size, replace=False)]), act) for size in sizes]


def all_of(site):
    return [Neuron(site, i) for i in range(site.width)]


def together(replies: MaskedReplies, asked) -> list[list[Said]]:
    found = {place: said for group in replies(asked) for place, said in group.items()}
    return [found[place] for place in range(len(asked))]


def plainly(replies: MaskedReplies, request: Request) -> list[Said]:
    """One mask; every token in a pass of its own; likelihoods in passes of their own."""
    vlm, said = replies.vlm, []
    for i, prompt in enumerate(replies.prompts):
        layout = TokenLayout()
        classes = [] if vlm.is_encoder_decoder else [vlm.token_classes(prompt)]
        reference, own = [replies.references[i]], [replies.intact[i]]
        with mask(vlm.model, request.neurons, request.intervention, replies.statistics, layout):
            context = vlm.embed([prompt])
            layout.expect(classes)
            answers = vlm.generate(context, LONGEST)
            layout.expect(classes, [len(reference[0].ids)] if vlm.engine.one_pass else None)
            masked = vlm.answer_log_probs(context, reference)[0]
            layout.expect(classes, [len(answers[0].ids)] if vlm.engine.one_pass else None)
            generated = vlm.answer_log_probs(context, answers)[0]
        context = vlm.embed([prompt])
        intact, baseline, judged = (vlm.answer_log_probs(context, of)[0] for of in (reference, own, answers))
        kl = float((intact.exp() * (intact - masked)).nansum(1).mean())

        def nll(log_probs, answer):
            return Likelihood.of([-v for v in chosen(log_probs, answer.ids)])

        [answer] = answers
        own_nll, judged_nll = nll(generated, answer), nll(judged, answer)
        said.append(Said(answer, nll(masked, reference[0]), own_nll, judged_nll, nll(baseline, own[0]), kl))
    return said


def same(one: list[Said], other: list[Said]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.answer == b.answer
        for name in ("reference", "generated", "generated_intact", "baseline"):
            assert getattr(a, name).tokens == getattr(b, name).tokens
            assert getattr(a, name).nll == pytest.approx(getattr(b, name).nll, rel=1e-3, abs=1e-4), name
        assert a.kl == pytest.approx(b.kl, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("family", ["llava", "instructblip", "llama", "qwen3", "blip_2_opt", "gemma3", "mixtral", "blip_2_t5"])
def test_it_is_what_the_plain_way_gives(family):
    replies = ask(vlm_of(family), batch_size=12)
    asked = requests(replies.vlm, 6)
    found = together(replies, asked)
    assert any(s.answer != i for said in found for s, i in zip(said, replies.intact, strict=True)), "a mask must harm"
    for request, said in zip(asked, found, strict=True):
        same(said, plainly(replies, request))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4, 8, 16, 40]), st.integers(1, 7), st.sampled_from([0, 2**18, 2**30]))
def test_any_grouping_gives_the_same(seed, batch_size, cut, kept):
    """However many rows go through the model together, whatever is asked with what, and whatever is kept."""
    vlm = vlm_of("llava")
    asked = requests(vlm, 7, seed)
    one = together(ask(vlm, batch_size=1), asked)
    replies = ask(vlm, batch_size=batch_size, kept=kept)
    for a, b in zip(one, together(replies, asked[:cut]) + together(replies, asked[cut:]), strict=True):
        same(a, b)


@pytest.mark.parametrize("intervention", [Zero(), *AT_SOME])
def test_every_layer_can_be_entered(intervention):
    vlm = vlm_of("llava")
    for layer in range(1, len(vlm.engine.layers)):
        replies = ask(vlm, batch_size=8)
        asked = requests(vlm, 4, intervention=intervention, first_layer=layer)
        found = together(replies, asked)
        assert replies.spent.skipped >= layer * replies.spent.rows
        for request, said in zip(asked, found, strict=True):
            same(said, plainly(replies, request))


@pytest.fixture
def begun(monkeypatch):
    """How many tokens were read once for several rows, a part each."""
    found, of = [], Beginning.of
    monkeypatch.setattr(beginnings, "_WORTH", 1)
    monkeypatch.setattr(Beginning, "of", lambda *args: (begin := of(*args), found.append(begin.tokens))[0])
    return found


@pytest.mark.parametrize("family", ["llava", "llama", "qwen3"])
@pytest.mark.parametrize("batch_size", [3, 12])
def test_a_beginning_that_prompts_share_is_read_once_a_mask(family, batch_size, begun):
    """Here one image and the words before the question."""
    vlm = vlm_of(family)
    rng = np.random.default_rng(0)
    means = {"class-mean": {s.key: rng.normal(size=(3, s.width)) * 3 for s in vlm.sites.select("language")}}
    for layer, intervention in enumerate([Scale(factor=-4.0), ClassMean(), *AT_SOME]):
        replies = ask(vlm, batch_size, statistics=means, samples=SAMPLES[:1] * 4)
        asked = requests(vlm, 4, intervention=intervention, first_layer=layer % len(vlm.engine.layers))
        for request, said in zip(asked, together(replies, asked), strict=True):
            same(said, plainly(replies, request))
    assert any(begun)


def test_one_token_of_each_prompt_is_left():
    """Its logits are those before the answer."""
    prompt = torch.arange(400.0).view(200, 2)
    assert Beginning.of([prompt, prompt], [0, 0]) == Beginning(199, [0], [0, 0])
    assert Beginning.of([prompt, prompt[:150]], [0, 0]) == Beginning(149, [0], [0, 0])
    assert Beginning.of([prompt, prompt + 1], [0, 0]).tokens == 0
    other = torch.cat([prompt[:160], prompt[160:] + 1])
    assert Beginning.of([prompt, prompt + 1, other, prompt + 1], [7, 8, 7, 8]) == Beginning(160, [0, 1], [0, 1, 0, 1])
    assert Beginning.of([prompt, prompt + 1], [7, 8]).tokens == 0, "nothing is saved"


def test_what_the_layers_below_gave_is_taken_bit_for_bit(begun):
    """With the same rows in a batch, starting at a layer changes no bit of the passes over prompts and references."""
    vlm = vlm_of("llava")
    same_image = SAMPLES[:1] * 4
    entering, whole = ask(vlm, samples=same_image), ask(vlm, samples=same_image)
    whole.grouping.first_layer = lambda request: 0
    last = len(vlm.engine.layers) - 1
    for request in requests(vlm, 4, first_layer=last):
        for a, b in zip(together(entering, [request])[0], together(whole, [request])[0], strict=True):
            assert a == b
    assert entering.spent.skipped and not whole.spent.skipped and any(begun)


def test_a_layer_that_cannot_be_entered_is_not(monkeypatch):
    """A model whose layers do more than hand on the residual stream is run whole."""
    vlm = vlm_of("llava")
    right = vlm.engine.intact

    def wrong(*asked):
        return [Intact(known.log_probs, [x * 1.5 for x in known.residual], known.key_values) for known in right(*asked)]

    monkeypatch.setattr(vlm.engine, "intact", wrong)
    replies = ask(vlm)
    asked = requests(vlm, 3, first_layer=1)
    for request, said in zip(asked, together(replies, asked), strict=True):
        same(said, plainly(replies, request))
    assert not replies.spent.skipped


@pytest.mark.parametrize("kept", [2**30, 0])
def test_the_intact_model_is_asked_about_its_references_once(kept, monkeypatch):
    """Or each time, where there is no room to keep what it said."""
    vlm = vlm_of("llava")
    intact, rows = vlm.engine.intact, []
    monkeypatch.setattr(vlm.engine, "intact", lambda contexts, *a: (rows.append(len(contexts)), intact(contexts, *a))[1])
    replies = ask(vlm, kept=kept)
    first = [together(replies, [request]) for request in requests(vlm, 3)]
    assert sum(rows) == (4 if kept else 12)
    assert [together(replies, [request]) for request in requests(vlm, 3)] == first


@pytest.mark.parametrize("family", ["llava", "gemma3", "blip_2_t5"])
def test_references_are_read_without_an_answer(family, monkeypatch):
    vlm = vlm_of(family)
    replies = ask(vlm, batch_size=12)
    asked = requests(vlm, 4)
    said = together(replies, asked)
    monkeypatch.setattr(vlm.engine, "generate", lambda *a: pytest.fail("written"))
    tokens = replies.spent.tokens
    read = {place: found for group in replies.read(asked) for place, found in group.items()}
    assert replies.spent.tokens == tokens
    for place, row in enumerate(said):
        assert [likelihood.tokens for likelihood in read[place]] == [s.reference.tokens for s in row]
        assert [likelihood.nll for likelihood in read[place]] == pytest.approx([s.reference.nll for s in row], rel=1e-3)


@pytest.mark.parametrize("kept", [2**30, 0])
@pytest.mark.parametrize("wide", [False, True])
def test_answers_go_on_from_what_was_read(wide, kept, monkeypatch):
    """Where each mask's rows read by themselves, if there is room to hold it; and then to the same bits."""
    vlm = vlm_of("llava")
    monkeypatch.setitem(vlm.__dict__, "wide", wide)
    asked = requests(vlm, 5)
    fresh, replies = ask(vlm, batch_size=4, kept=kept), ask(vlm, batch_size=4, kept=kept)
    said = together(fresh, asked)
    for request in asked:
        list(replies.read([request], hold=True))
    later = together(replies, asked)
    for one, other in zip(said, later, strict=True):
        same(one, other)
    assert later == said or wide
    held = bool(kept) and not wide  # rows under several masks read together where that costs little
    assert replies.spent.rows == (20 if held else 40) and replies.spent.tokens == fresh.spent.tokens
    together(replies, asked)
    assert replies.spent.rows == (40 if held else 60), "what was held is used up"


def test_unharmed_answers_are_read_and_not_written():
    replies = ask(vlm_of("llava"))
    together(replies, [Request(NeuronSet())])
    spent = replies.spent
    assert spent.passes == spent.rows == 4 and spent.accepted >= spent.tokens - 4


def test_given_references_are_judged_and_not_answered():
    vlm = vlm_of("llava")
    given = [vlm.encode(text) for text in ("a red car", "yes", "no", "a big blue house next to a dog")]
    replies = ask(vlm, batch_size=12, references=given)
    asked = requests(vlm, 5)
    for request, said in zip(asked, together(replies, asked), strict=True):
        same(said, plainly(replies, request))


def test_class_means_go_to_each_rows_tokens():
    vlm = vlm_of("llava")
    rng = np.random.default_rng(0)
    means = {"class-mean": {s.key: rng.normal(size=(3, s.width)) * 3 for s in vlm.sites.select("language")}}
    replies = ask(vlm, batch_size=12, statistics=means)
    asked = requests(vlm, 4, intervention=ClassMean())
    for request, said in zip(asked, together(replies, asked), strict=True):
        same(said, plainly(replies, request))


def test_masks_of_the_vision_part_are_alone():
    vlm = vlm_of("llava")
    site = vlm.sites.select("vision", "hidden", reachable_only=True)[0]
    replies = ask(vlm, batch_size=12)
    asked = [Request(NeuronSet(all_of(site)[:n]), Constant(number=9.0)) for n in (5, 10)] + requests(vlm, 2)
    for request, said in zip(asked, together(replies, asked), strict=True):
        same(said, plainly(replies, request))


def test_what_does_not_fit_in_memory_is_done_in_halves(monkeypatch):
    """A pass that runs out of memory is split: first by sets, then by samples; a single row that does not fit is an error."""
    vlm = vlm_of("llava")
    asked = requests(vlm, 5)
    whole = together(ask(vlm, batch_size=20), asked)
    reply, rows = vlm.engine.reply, []

    def small(asked, *others):
        rows.append(len(asked.contexts))
        if rows[-1] > limit:
            raise torch.OutOfMemoryError("no room")
        return reply(asked, *others)

    monkeypatch.setattr(vlm.engine, "reply", small)
    limit = 3
    for a, b in zip(whole, together(ask(vlm, batch_size=20), asked), strict=True):
        same(a, b)
    assert any(n <= limit for n in rows) and max(rows) > limit
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        together(ask(vlm), asked)
