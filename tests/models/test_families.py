"""Every supported family on a tiny random model: discovered, answered, scored and masked; engines and batches agree."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from lesion.ablation.evaluator import Evaluator
from lesion.ablation.replies import MaskedReplies
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import Sample
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import ClassMean
from lesion.models.embeds_engine import EmbedsEngine
from lesion.models.vlm import VisionLanguageModel
from lesion.models.whole_engine import WholeEngine
from lesion.scoring.options import ScoreOptions
from lesion.scoring.score import score
from lesion.study.study import Study
from tests.families.__main__ import BUILDERS, FILE, GOLDEN, built, resolved, table, vlm_of
from tests.families.heads import HEADS

FAMILIES = list(BUILDERS)
PROMPTS = ("What do you see ?", "a big red car is at the top .")


def picture(seed: int, size: tuple[int, int]) -> Sample:
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Sample(f"noise-{seed}", Image.fromarray(pixels.numpy()))


SAMPLES = [picture(0, (48, 32)), picture(1, (26, 50))]


def prompts_of(vlm: VisionLanguageModel) -> list:
    """Two samples of other sizes, with prompts of other lengths."""
    return [vlm.prompt(sample, prompt) for sample, prompt in zip(SAMPLES, PROMPTS, strict=True)]


def answered(family: str):
    vlm = vlm_of(family)
    prompts = prompts_of(vlm)
    return vlm, prompts, vlm.generate(vlm.embed(prompts), 6)


# -- discovery ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_the_neurons_are_as_many_as_worked_out_by_hand(family):
    counts: dict[tuple[str, str], int] = {}
    heads: dict[str, int] = {}
    for site in vlm_of(family).sites:
        if site.role == "head":
            heads[site.component] = heads.get(site.component, 0) + site.width
        else:
            counts[site.component, site.role] = counts.get((site.component, site.role), 0) + site.width
    assert counts == dict(built(family).counts)
    assert heads == HEADS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_structure_is_that_of_the_golden_file(family):
    assert resolved(family) == (GOLDEN / f"{family}.txt").read_text(), "python -m tests.families writes it anew"


def test_there_is_a_golden_file_for_each_family_and_for_no_other():
    assert {file.stem for file in GOLDEN.iterdir()} == set(FAMILIES) == set(HEADS)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_places_in_lists_of_modules(family):
    """Beside the modules themselves, whatever they are called; numbered from 0 without a gap."""
    vlm = vlm_of(family)
    lists = [m for m in vlm.model.modules() if isinstance(m, nn.ModuleList)]
    outermost = [m for m in lists if not any(m is not other and m in set(other.modules()) for other in lists)]
    place = {id(module): i for members in outermost for i, member in enumerate(members) for module in member.modules()}
    for site in vlm.sites:
        assert site.layer == place.get(id(vlm.model.get_submodule(site.path)), 0), site
    for component in dict.fromkeys(s.component for s in vlm.sites):
        layers = {s.layer for s in vlm.sites if s.component == component}
        assert layers == set(range(len(layers)))
        if component == "language":
            assert len(layers) == built(family).model.config.get_text_config().num_hidden_layers


# -- answers --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_answers_as_one_by_one(family):
    vlm, prompts, together = answered(family)
    alone = [vlm.generate(vlm.embed([p]), 6)[0] for p in prompts]
    assert together == alone
    batched = vlm.answer_log_probs(vlm.embed(prompts), together)
    for prompt, answer, log_probs in zip(prompts, together, batched, strict=True):
        (single,) = vlm.answer_log_probs(vlm.embed([prompt]), [answer])
        assert log_probs.shape[0] == len(answer.ids)
        torch.testing.assert_close(log_probs, single, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("blip_2_t5",)])
def test_both_engines_answer_alike(family):
    vlm, prompts, answers = answered(family)
    if not isinstance(vlm.engine, EmbedsEngine):
        pytest.skip("has one engine")
    whole = WholeEngine(vlm)
    assert [vlm.answer(ids) for ids in whole.generate(whole.embed(prompts), 6)] == answers
    for one, other in zip(
        vlm.answer_log_probs(vlm.embed(prompts), answers), whole.answer_log_probs(prompts, answers), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


# -- scoring --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_answer_as_generated(family):
    """Teacher forcing in one pass, with its masks and token types, against the model's own way token by token."""
    vlm, prompts, answers = answered(family)
    with torch.no_grad():
        losses = torch.cat([batch.losses() for batch in vlm.batches(prompts, answers, 2)])
    for prompt, answer, loss in zip(prompts, answers, losses, strict=True):
        (log_probs,) = WholeEngine(vlm).answer_log_probs([prompt], [answer])
        expected = -log_probs.gather(1, torch.tensor(answer.ids)[:, None]).mean()
        assert float(loss) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_reachable_sites_and_batches_do_not_matter(family):
    vlm, prompts, answers = answered(family)
    names = ("can", "gradient", "activation", "perturbation", "wanda")
    together = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), names)
    parts = [score(vlm.model, vlm.sites, vlm.batches([p], [a], 1), names) for p, a in zip(prompts, answers, strict=True)]
    for name in names:
        merged = parts[0][name].merge(parts[1][name])
        for site in vlm.sites:
            values = torch.from_numpy(merged.values(site))
            torch.testing.assert_close(torch.from_numpy(together[name].values(site)), values, rtol=2e-3, atol=1e-6)
    # Of a layer's experts some are given no token, or only tokens whose output the loss does not read.
    heard = {(s.path, s.role) for s in vlm.sites if together["gradient"].values(s).any()}
    assert heard == {(s.path, s.role) for s in vlm.sites if s.reachable}
    assert {(s.path, s.role) for s in vlm.sites if not s.reachable}.isdisjoint(heard)


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_are_parts_of_all(family):
    vlm, prompts, answers = answered(family)
    (site,) = vlm.sites.select("language", "hidden")[:1]
    found = {}
    for positions in ("all", "prompt", "image", "answer"):
        options = ScoreOptions(positions=positions, aggregate="sum")  # pyright: ignore[reportArgumentType]
        scored = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), ("activation",), options)
        found[positions] = sum(scored["activation"].values(s).sum() for s in vlm.sites if s.component == "language")
    assert found["all"] == pytest.approx(found["prompt"] + found["image"] + found["answer"], rel=1e-4)
    assert (found["image"] > 0) == (vlm.structure.vision is not None)
    assert site.component == "language"


# -- masks ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_masking_any_kind_of_site_acts_and_leaves_no_trace(family):
    vlm, prompts, answers = answered(family)
    before = vlm.answer_log_probs(vlm.embed(prompts), answers)
    for component, role in dict.fromkeys((s.component, s.role) for s in vlm.sites):
        sites = vlm.sites.select(component, role)
        for reachable in (True, False):
            members = NeuronSet(Neuron(s, i) for s in sites if s.reachable == reachable for i in range(s.width))
            if not len(members):
                continue
            with mask(vlm.model, members):
                masked = vlm.answer_log_probs(vlm.embed(prompts), answers)
            same = all(torch.equal(a, b) for a, b in zip(before, masked, strict=True))
            assert same == (not reachable), (component, role)
    after = vlm.answer_log_probs(vlm.embed(prompts), answers)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_of_a_batch_can_have_its_own_mask(family):
    vlm, prompts, answers = answered(family)
    role = "gate" if ("language", "gate") in built(family).counts else "hidden"
    sites = vlm.sites.select("language", role)
    sets = [NeuronSet(Neuron(s, i) for s in sites for i in (0, 3)), NeuronSet(Neuron(s, 5) for s in sites)]
    with mask(vlm.model, sets):
        together = vlm.answer_log_probs(vlm.embed(prompts), answers)
    for row, neurons in enumerate(sets):
        with mask(vlm.model, neurons):
            alone = vlm.answer_log_probs(vlm.embed(prompts), answers)
        torch.testing.assert_close(together[row], alone[row], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(together[1 - row], alone[1 - row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_gate_up_and_hidden_are_one_where_they_must_be(family):
    """Zero gate (where act(0) = 0), zero up and zero hidden unit are the same intervention: roles are not mixed up."""
    vlm, prompts, answers = answered(family)
    if ("language", "up") not in built(family).counts:
        pytest.skip("ungated")
    found = []
    for role in ("up", "hidden", "gate"):
        sites = vlm.sites.select("language", role)
        with mask(vlm.model, NeuronSet(Neuron(s, i) for s in sites for i in (0, 3))):
            found.append(torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers)))
    assert not torch.equal(found[0], torch.cat(vlm.answer_log_probs(vlm.embed(prompts), answers)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[2], found[1], rtol=1e-4, atol=1e-4)


# -- whole studies --------------------------------------------------------------------------------------------------------
STUDIED = ("llava_next", "blip_2_opt", "blip_2_t5", "gemma3", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "mllama", "florence2")


@pytest.mark.parametrize("family", STUDIED)
def test_a_study_from_images_to_an_answer(family, tmp_path):
    for sample in (*SAMPLES, picture(2, (40, 40)), picture(3, (32, 32))):
        sample.picture.save(tmp_path / f"{sample.id}.png")
    found = Study(
        vlm_of(family), tmp_path / "run", data=str(tmp_path), samples=4, role="hidden", clip="none", max_new_tokens=4, max_k=3,
        controls=1,
    ).run()  # fmt: skip
    assert [p.k for p in found.curve][:3] == [0, 1, 2] and found.baseline["exact_match"] == 1
    assert found.baseline["kl"] == pytest.approx(0, abs=1e-5)
    again = Study(
        vlm_of(family), tmp_path / "mean", data=str(tmp_path), samples=4, role="down", clip="none", max_new_tokens=4, max_k=1,
        controls=0, mask="mean", component="vision",
    ).run()  # fmt: skip
    assert again.neurons_total == sum(s.width for s in vlm_of(family).sites.select("vision", "down", reachable_only=True))


@pytest.mark.parametrize("family", ["llava_next", "gemma3", "qwen2_vl", "mllama"])
def test_class_means_go_to_the_tokens_of_their_class(family):
    vlm, prompts, answers = answered(family)
    site = vlm.sites.select("language", "down")[0]
    means = {site.key: torch.arange(3 * site.width).reshape(3, site.width).float().numpy()}  # first, image, text
    replies = MaskedReplies(vlm, prompts, answers, answers, 6, 2, {"class-mean": means})
    measure = Evaluator(vlm, SAMPLES, answers, None, replies)
    seen: list[torch.Tensor] = []
    network = vlm.model.get_submodule(site.path.rpartition(".")[0])  # gives what its down-projection gives, masked
    handle = network.register_forward_hook(lambda m, a, out: seen.append(out[..., 2].clone()))
    measure(NeuronSet([Neuron(site, 2)]), ClassMean())
    handle.remove()
    classes = [vlm.token_classes(p) for p in prompts]
    assert {int(c) for row in classes for c in row} == {0, 1, 2}
    embeds = isinstance(vlm.engine, EmbedsEngine)
    own = [torch.cat([c, torch.full((len(a.ids) * embeds,), 2)]) for c, a in zip(classes, answers, strict=True)]
    runs = [x for x in seen if x.shape[1] > 1 and x.shape[0] == 2]
    masked = [x for x in runs if all(torch.equal(x[r, -len(c) :], c * site.width + 2.0) for r, c in enumerate(own))]
    assert len(masked) >= (1 if embeds else 3), "over prompts and references; or of the answer and of two given ones"
    steps = [x for x in seen if x.shape[1] <= (32 if embeds else 1) and bool((x == 2 * site.width + 2).all())]
    assert len(steps) >= (1 if embeds else 4), "decoding steps are text"


def test_the_table_of_supported_models_is_what_is_tested():
    assert FILE.read_text() == table(), "python -m tests.families writes it anew"
