"""Scoring against values worked out by hand, against finite differences, and across batches and orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lesion.core.errors import OptionError
from lesion.core.importance import Importance, decode, encode
from lesion.core.ranking import Ranking
from lesion.models.handle import frozen
from lesion.scoring.options import ScoreOptions
from lesion.scoring.score import score
from lesion.scoring.scorers import CLASS_VALUES, SCORERS, VALUE, get_scorer, rankers, register
from tests import tiny_models
from tests.tiny_models import Numbers, ThreeNeurons

EXACT = {"rtol": 1e-6, "atol": 0}


def by_role(importance: Importance) -> dict[str, np.ndarray]:
    return {s.role: importance.values(s) for s in importance.sites}


def test_importance_worked_out_by_hand():
    """y = 1 g1 u1 - 0.5 g2 u2 + 2 g3 u3 with g = (x, 2x, -3x), u = (x, x, x/2), h = g u; the loss is the sum of y.

    Sample 1 has tokens x = 1, 2, sample 2 tokens x = -1, 0. |dL/dh| = (1, 0.5, 2), |h| = x^2 (1, 2, 1.5), so
    |g a| at hidden = x^2 (1, 1, 3). At gate, dL/dg = w u, so |g a| is the same; likewise at up. Means over tokens:
    x^2 has mean 2.5 in sample 1 and 0.5 in sample 2, hence 1.5 in all. down: y = x^2 (1 - 1 - 3) = -3 x^2, dL/dy = 1.
    """
    model = ThreeNeurons()
    found = score(model, model.sites, [Numbers(model, [[1.0, 2.0], [-1.0, 0.0]])], ["can", "gradient", "activation", "taylor"])
    for role in ("gate", "up", "hidden"):
        np.testing.assert_allclose(by_role(found["can"])[role], [1.5, 1.5, 4.5], **EXACT)
    np.testing.assert_allclose(by_role(found["can"])["down"], [4.5], **EXACT)
    np.testing.assert_allclose(by_role(found["activation"])["hidden"], [1.5, 3.0, 2.25], **EXACT)
    np.testing.assert_allclose(by_role(found["gradient"])["hidden"], [1.0, 0.5, 2.0], **EXACT)
    # mean |x| is 1.5 and 0.5: at gate |dL/dg| = |w u| = |x| (1, 0.5, 1)
    np.testing.assert_allclose(by_role(found["gradient"])["gate"], [1.0, 0.5, 1.0], **EXACT)
    # Taylor sums over tokens: 5 and 1, mean 3
    np.testing.assert_allclose(by_role(found["taylor"])["hidden"], [3.0, 3.0, 9.0], **EXACT)


def test_other_scorers_worked_out_by_hand():
    """The same model and samples; the weights of the out-projection are 1, -0.5 and 2."""
    model = ThreeNeurons()
    batch = Numbers(model, [[1.0, 2.0], [-1.0, 0.0]])
    found = score(model, model.sites, [batch], ["superweight", "wanda", "perturbation"], ScoreOptions(noise=0.5))
    # The largest x^2 of a sample is 4 and 1, the largest |x| 2 and 1.
    np.testing.assert_allclose(by_role(found["superweight"])["hidden"], [2.5, 5.0, 3.75], **EXACT)
    np.testing.assert_allclose(by_role(found["superweight"])["gate"], [1.5, 3.0, 4.5], **EXACT)
    # Mean |h| = 1.5 (1, 2, 1.5) and mean |g| = 1 (1, 2, 3), times |w_out|; what is written counts as it is.
    np.testing.assert_allclose(by_role(found["wanda"])["hidden"], [1.5, 1.5, 4.5], **EXACT)
    np.testing.assert_allclose(by_role(found["wanda"])["gate"], [1.0, 1.0, 6.0], **EXACT)
    np.testing.assert_allclose(by_role(found["wanda"])["down"], by_role(found["superweight"])["down"] * 4.5 / 7.5, **EXACT)
    # (x + 0.5)^2 - x^2 = x + 0.25: 1.25, 2.25, -0.75 and 0.25, of mean size 1.125
    np.testing.assert_allclose(by_role(found["perturbation"])["gate"], [0.5, 1.0, 1.5], **EXACT)
    np.testing.assert_allclose(by_role(found["perturbation"])["hidden"], [1.125, 2.25, 1.6875], **EXACT)


@pytest.mark.parametrize("make", [tiny_models.llava, tiny_models.instructblip])
def test_class_values_are_the_means_over_the_classes_tokens(make):
    """The classes part the tokens of a sample, so their means, weighted by their tokens, are the mean of all."""
    vlm = make()
    [prompt], [answer] = prepared(vlm, 1)
    names = [VALUE, *CLASS_VALUES.values()]
    found = score(vlm.model, vlm.sites, vlm.batches([prompt], [answer], 1), names)
    counts = torch.bincount(vlm.token_classes(prompt), minlength=3).tolist()
    counts[2] += len(answer.ids)
    assert counts[0] == 1 and counts[1] > 1
    for site in vlm.sites.select("language"):
        parts = [found[name].values(site) * n for name, n in zip(CLASS_VALUES.values(), counts, strict=True)]
        np.testing.assert_allclose(sum(parts) / sum(counts), found[VALUE].values(site), rtol=1e-4, atol=1e-6)
        assert not np.allclose(found["value of first"].values(site), found["value of text"].values(site))


@pytest.mark.parametrize("make", [tiny_models.llava, tiny_models.instructblip])
def test_perturbation_does_not_depend_on_the_batch_and_reaches_every_site(make):
    vlm = make()
    prompts, answers = prepared(vlm)
    name = "perturbation"
    one = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 1), [name])[name]
    hooks = tiny_models.hook_count(vlm.model)  # transformers' own, since the first run
    all_ = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 5), [name])[name]
    assert tiny_models.hook_count(vlm.model) == hooks
    for site in vlm.sites:
        np.testing.assert_allclose(all_.values(site), one.values(site), rtol=2e-3, atol=1e-6)
        # Noise is in the image alone, which a Q-Former sees in its cross-attention: its queries and text not before.
        unseen = site.path.startswith(("qformer.encoder.layer.0.attention.", "qformer.encoder.layer.0.output."))
        assert (one.values(site).max() > 1e-6) != unseen, site.key
    other = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 5), [name], ScoreOptions(seed=1))
    site = vlm.sites.select("language", "gate")[0]
    assert not np.allclose(other[name].values(site), all_.values(site))


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", 1.5), ("sum", 3.0), ("max", (4 + 1) / 2), ("last", (4 + 0) / 2)],
)
def test_aggregates_by_hand(how, expected):
    model = ThreeNeurons()
    batch = Numbers(model, [[1.0, 2.0], [-1.0, 0.0]])
    found = score(model, model.sites, [batch], ["can"], ScoreOptions(aggregate=how))["can"]
    np.testing.assert_allclose(by_role(found)["hidden"], [expected, expected, 3 * expected], **EXACT)


def test_padding_does_not_count():
    model = ThreeNeurons()
    padded = Numbers(model, [[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]], [[True, True, False], [True, False, False]])
    alone = [Numbers(model, [[1.0, 2.0]]), Numbers(model, [[3.0]])]
    for how in ("mean", "sum", "max", "last"):
        options = ScoreOptions(aggregate=how)
        one, two = (score(model, model.sites, b, ["can"], options)["can"] for b in ([padded], alone))
        for role, values in by_role(one).items():
            np.testing.assert_allclose(values, by_role(two)[role], **EXACT)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_and_negative_gradients(alpha):
    """The second unit's gradient is negative; a fractional power of it must not be NaN, and 0 to the power 0 is 1."""
    model = ThreeNeurons()
    found = score(model, model.sites, [Numbers(model, [[2.0]])], ["can", "activation"], ScoreOptions(alpha=alpha))
    expected = np.array([1.0, 0.5, 2.0]) ** alpha * np.array([4.0, 8.0, 6.0])
    np.testing.assert_allclose(by_role(found["can"])["hidden"], expected, rtol=1e-6)
    if alpha == 0:
        assert by_role(found["can"])["hidden"].tolist() == by_role(found["activation"])["hidden"].tolist()


def test_alpha_zero_is_activation_alone_where_no_gradient_arrives():
    model = ThreeNeurons()
    with torch.no_grad():
        model.mlp.down_proj.weight[0, 1] = 0  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
    found = score(model, model.sites, [Numbers(model, [[2.0]])], ["can"], ScoreOptions(alpha=0.0))["can"]
    assert by_role(found)["hidden"][1] == 8.0


def test_gradients_against_finite_differences(vlm):
    """The sum of g a, from a central difference: one neuron scaled up and down by a hundredth.

    The step is not smaller because Llama's norms compute in float32 even in a float64 model.
    """
    vlm.model.double()
    samples = tiny_models.samples(1)
    prompt = vlm.prompt(samples[0], "What do you see?")
    answer = vlm.encode("a big red car .")
    [batch] = vlm.batches([prompt], [answer], 1)
    importance = score(vlm.model, vlm.sites, [batch], ["taylor"])["taylor"]
    checked = 0
    for site in vlm.sites:
        if not site.reachable or (site.role == "head" and site.layer):
            continue
        index = site.width // 2
        differences = [_difference(vlm, batch, site, channel) for channel in site.channels(np.array([index])).tolist()]
        # The scores of a head's channels are added.
        assert importance.values(site)[index] == pytest.approx(sum(differences), rel=1e-2, abs=2e-5), site
        checked += 1
    assert checked >= 12
    assert {s.role for s in vlm.sites} >= {"gate", "up", "hidden", "down", "head"}
    vlm.model.float()


def _difference(vlm, batch, site, channel) -> float:
    """|sum over tokens of a dL/da| of one channel."""
    module, losses = vlm.model.get_submodule(site.path), []
    for scale in (1 + 1e-2, 1 - 1e-2):

        def scaled(x, scale=scale):
            x = x.clone()
            x[..., channel] *= scale
            return x

        if site.side == "input":
            handle = module.register_forward_pre_hook(lambda m, a, f=scaled: (f(a[0]),))
        else:
            handle = module.register_forward_hook(lambda m, a, out, f=scaled: f(out))
        with torch.no_grad():
            losses.append(_double_loss(batch))
        handle.remove()
    return abs(losses[0] - losses[1]) / 2e-2


def _double_loss(batch) -> float:
    logits = batch._handle.model(**batch.inputs, use_cache=False).logits.double()
    targets, counted = batch.inputs["input_ids"][:, 1:], batch.answer[:, 1:]
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
    return float((nll * counted).sum() / counted.sum())


def prepared(vlm, count=5):
    prompts = [vlm.prompt(s, "What do you see?") for s in tiny_models.samples(count)]
    texts = ["a big red car .", "yes", "a small dog is at the top of the picture .", "no", "two"]
    return prompts, [vlm.encode(text) for text in texts[:count]]


@pytest.mark.parametrize("positions", ["all", "image", "prompt", "answer", "first"])
def test_batch_size_and_order_do_not_matter(vlm, positions):
    prompts, answers = prepared(vlm)
    options, names = ScoreOptions(positions=positions), ["can", "activation", "taylor"]
    one = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 1), names, options)
    for order, size in (([0, 1, 2, 3, 4], 5), ([4, 2, 0, 3, 1], 2)):
        rows = [prompts[i] for i in order], [answers[i] for i in order]
        other = score(vlm.model, vlm.sites, vlm.batches(*rows, size), names, options)
        for name in names:
            for site in vlm.sites:
                # Language sites see padding in a batch; nothing of it may count. Rounding alone may differ.
                np.testing.assert_allclose(other[name].values(site), one[name].values(site), rtol=2e-3, atol=1e-6)
    first = vlm.sites.select("language", "gate")[0]
    assert len({tuple(importance.values(first)) for importance in one.values()}) >= 2, "the scorers must differ"


def test_prompts_of_different_lengths_in_a_batch(vlm):
    samples = tiny_models.samples(3)
    texts = ["What?", "Describe this image in detail.", "What do you see?"]
    prompts = [vlm.prompt(s, t) for s, t in zip(samples, texts, strict=True)]
    answers = [vlm.encode(t) for t in ("yes", "a big red car .", "no")]
    one = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 1), ["can"])["can"]
    all_ = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 3), ["can"])["can"]
    for site in vlm.sites:
        np.testing.assert_allclose(all_.values(site), one.values(site), rtol=2e-3, atol=1e-6)


def test_one_forward_and_one_backward_a_batch(vlm):
    prompts, answers = prepared(vlm)
    forwards, backwards = [], []
    module = vlm.model.get_submodule(next(s.path for s in vlm.sites.select("language", "gate")))
    handles = [
        module.register_forward_hook(lambda m, a, out: forwards.append(1)),
        module.register_full_backward_hook(lambda m, a, out: backwards.append(1)),
    ]
    names = [n for n in SCORERS if SCORERS[n].reduce is not None and SCORERS[n].needs in ("forward", "gradient")]
    assert len(names) >= 10
    score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 3), names)
    for handle in handles:
        handle.remove()
    assert (len(forwards), len(backwards)) == (2, 2)  # five samples, three a batch


def test_the_perturbed_pass_is_one_forward(vlm):
    prompts, answers = prepared(vlm)
    forwards = []
    module = vlm.model.get_submodule(next(s.path for s in vlm.sites.select("language", "gate")))
    handle = module.register_forward_hook(lambda m, a, out: forwards.append(len(out)))
    score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 3), ["perturbation"])
    handle.remove()
    assert forwards == [6, 4]


def test_parts_merge_to_the_whole(vlm):
    prompts, answers = prepared(vlm)
    whole = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 1), ["can"])["can"]
    first = score(vlm.model, vlm.sites, vlm.batches(prompts[:2], answers[:2], 1), ["can"])["can"]
    rest = score(vlm.model, vlm.sites, vlm.batches(prompts[2:], answers[2:], 1), ["can"])["can"]
    merged = first.merge(rest)
    assert merged.samples == 5
    for site in vlm.sites:
        np.testing.assert_allclose(merged.values(site), whole.values(site), rtol=1e-12)
        np.testing.assert_array_equal(merged.consistency(site), whole.consistency(site))
    other = score(vlm.model, vlm.sites, vlm.batches(prompts[:1], answers[:1], 1), ["can"], ScoreOptions(alpha=0.5))["can"]
    with pytest.raises(OptionError, match="made differently"):
        first.merge(other)


def test_consistency_is_the_share_of_samples_with_the_neuron_on_top():
    model = ThreeNeurons()
    found = score(model, model.sites, [Numbers(model, [[1.0], [2.0], [0.5]])], ["can"], ScoreOptions(top=0.3))["can"]
    hidden = next(s for s in model.sites if s.role == "hidden")
    assert found.consistency(hidden).tolist() == [0.0, 0.0, 1.0]  # the third unit scores x^2 (1, 1, 3)


def test_random_needs_no_pass_and_is_the_same_everywhere(vlm):
    one = score(vlm.model, vlm.sites, [], ["random"], ScoreOptions(seed=3))["random"]
    two = score(vlm.model, vlm.sites, [], ["random"], ScoreOptions(seed=3))["random"]
    other = score(vlm.model, vlm.sites, [], ["random"], ScoreOptions(seed=4))["random"]
    site = vlm.sites[0]
    assert one.values(site).tolist() == two.values(site).tolist() != other.values(site).tolist()


def test_the_model_is_left_as_it_was():
    model = ThreeNeurons().train()
    assert all(p.requires_grad for p in model.parameters())
    score(model, model.sites, [Numbers(model, [[1.0]])], ["can"])
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert tiny_models.hook_count(model) == 0
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not model.training
        raise ZeroDivisionError
    assert model.training


def test_hooks_are_gone_when_the_model_raises():
    class Broken(Numbers):
        def losses(self):
            super().losses()
            raise ZeroDivisionError

    model = ThreeNeurons()
    with pytest.raises(ZeroDivisionError):
        score(model, model.sites, [Broken(model, [[1.0]])], ["can"])
    assert tiny_models.hook_count(model) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 1.1}, "alpha is 1.1"), ({"alpha": -0.1}, "alpha is -0.1"), ({"alpha": float("nan")}, "alpha is nan"),
     ({"aggregate": "median"}, "'median'; expected one of mean, max"), ({"positions": "end"}, "'end'; expected one of all"),
     ({"top": 0.0}, "top is 0.0"), ({"noise": 0.0}, "noise is 0.0"), ({"ig_steps": 0}, "ig_steps is 0; expected at least 1"),
     ({"ig_path": "site"}, "ig_path is 'site'; expected one of layer, all")],
)  # fmt: skip
def test_options_out_of_range(options, message):
    with pytest.raises(OptionError, match=message):
        ScoreOptions(**options)


def test_the_registry():
    known = (
        "activation, can, gradient, integrated-gradients, output-share, perturbation, random, relp, superweight, taylor, wanda"
    )
    with pytest.raises(
        OptionError,
        match=f"'best' is unknown; available: {known}",
    ):
        get_scorer("best")
    with pytest.raises(ValueError, match="registered already"):
        register("can")(lambda a, g, t, o: a)
    assert "value" not in rankers(), "a signed mean is no importance"
    assert all(s.about for s in SCORERS.values())


def test_importances_survive_their_file(vlm):
    prompts, answers = prepared(vlm, 2)
    found = score(vlm.model, vlm.sites, vlm.batches(prompts, answers, 2), ["can", "gradient"])
    data = encode(found, "key")
    assert decode(data, vlm.sites, "another key") is None
    read = decode(data, vlm.sites, "key")
    assert read is not None
    for name, importance in found.items():
        assert read[name].options == importance.options and read[name].samples == 2
        for site in vlm.sites:
            assert read[name].values(site).dtype == np.float64
            np.testing.assert_array_equal(read[name].values(site), importance.values(site))
            np.testing.assert_array_equal(read[name].consistency(site), importance.consistency(site))
    for damaged in (b"", b"\0" * 8, data[:100], data[:-8], data[:8] + b"[" + data[9:]):
        with pytest.raises(ValueError, match=r"."):
            decode(damaged, vlm.sites, "key")


def test_ranking_is_descending_with_ties_by_site_and_index(tmp_path):
    model = ThreeNeurons()
    sites = model.sites
    sums = {s.key: np.array([1.0, 5.0, 1.0])[: s.width] for s in sites}
    ranking = Ranking(Importance("can", {}, sites, sums, samples=1), sites)
    found = [(n.site.role, n.index) for n in (ranking[i] for i in range(len(ranking)))]
    assert found == [("gate", 1), ("up", 1), ("hidden", 1), ("gate", 0), ("gate", 2), ("up", 0), ("up", 2), ("hidden", 0),
                     ("hidden", 2), ("down", 0)]  # fmt: skip
    assert [ranking.rank_of(ranking[i]) for i in range(len(ranking))] == list(range(10))
    assert set(ranking.top(4)) == {ranking[i] for i in range(4)}
    with pytest.raises(OptionError, match="k is 11; there are 10"):
        ranking.top(11)
    ranking.save(tmp_path / "r.csv")
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[0] == "rank,path,component,role,layer,index,can,consistency"
    assert lines[1] == "1,mlp.gate_proj,language,gate,0,1,5,0" and len(lines) == 11


def test_what_each_scorer_takes_by_itself():
    usual, half = ScoreOptions(), ScoreOptions(alpha=0.5)
    taken = {name: get_scorer(name).passes(usual) for name in rankers()}
    assert taken == {
        "can": (1, 1), "gradient": (1, 1), "taylor": (1, 1), "activation": (1, 0), "wanda": (1, 0), "superweight": (1, 0),
        "perturbation": (2, 0), "random": (0, 0), "relp": (1, 1), "output-share": (1, 0), "integrated-gradients": (8, 8),
    }  # fmt: skip
    assert get_scorer("integrated-gradients").passes(ScoreOptions(ig_steps=3), sites=5) == (15, 15)
    assert get_scorer("integrated-gradients").passes(ScoreOptions(ig_steps=3, ig_path="all"), sites=5) == (3, 3)
    assert get_scorer("can").passes(half) == (1, 1)
    assert get_scorer("can").passes(ScoreOptions(alpha=0)) == (1, 0)
