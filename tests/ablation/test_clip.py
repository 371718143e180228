"""The CLIP score, and which CLIP model gives it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lesion.ablation import clip as clips
from lesion.ablation.clip import DEFAULT, ClipScorer, load_clip
from lesion.ablation.clip import score as clip_score
from lesion.core.errors import ModelError, OptionError
from lesion.core.progress import Silent
from lesion.data.samples import QUESTIONS, SCENES, Sample, load_samples
from lesion.zoo import EMBEDDED
from tests import tiny_models
from tests.models.test_families import picture


@pytest.fixture(scope="module")
def clip() -> ClipScorer:
    return ClipScorer("tiny-clip", "cpu")


def test_clip_score_is_a_cosine_written_by_hand(clip):
    samples = tiny_models.samples(3)
    texts = ["a big red car", "a small dog on the grass", ""]
    found = clip.score(samples, texts)
    for sample, text, value in zip(samples[:2], texts[:2], found[:2], strict=True):
        inputs = clip.processor(images=sample.image, text=text, return_tensors="pt")
        with torch.inference_mode():
            out = clip.model(**inputs)
        image, words = out.image_embeds[0].numpy(), out.text_embeds[0].numpy()
        cosine = float(np.dot(image, words) / np.sqrt(np.dot(image, image) * np.dot(words, words)))
        assert value == pytest.approx(100 * max(cosine, 0), abs=1e-3)
    assert found[2] == 0.0, "no text says nothing of an image"
    assert clip_score(-0.3) == 0.0 and clip_score(0.5) == 50.0


def test_chance_is_the_mean_over_the_other_samples_texts(clip):
    samples, texts = tiny_models.samples(3), ["a red car", "a dog", "the snow"]
    chance = clip.chance(samples, texts)
    for i, sample in enumerate(samples):
        others = [t for j, t in enumerate(texts) if j != i]
        assert chance[i] == pytest.approx(np.mean(clip.score([sample] * 2, others)), abs=1e-6)


def test_clip_truncates_long_texts(clip):
    [value] = clip.score(tiny_models.samples(1), ["a red car " * 500])
    assert math.isfinite(value)


def test_images_are_encoded_once(clip):
    calls = []
    handle = clip.model.vision_model.register_forward_hook(lambda m, a, out: calls.append(1))
    sample = Sample("only-here", tiny_models.samples(1)[0].image)
    for _ in range(3):
        clip.score([sample], ["a car"])
    handle.remove()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("auto", SCENES, "tiny-clip"), ("auto", QUESTIONS, "tiny-clip"), ("auto", "photographs/", DEFAULT),
        ("auto", "hf:owner/name", DEFAULT), ("tiny-clip", "photographs/", "tiny-clip"), ("own/clip", SCENES, "own/clip"),
    ],
)  # fmt: skip
def test_the_clip_model_goes_by_the_data_and_not_by_the_model(name, data, expected, monkeypatch):
    """Photographs are for a CLIP that has seen photographs, whichever model describes them."""
    names: list[str] = []
    monkeypatch.setattr(clips, "ClipScorer", lambda name, device: names.append(name))
    notes: list[str] = []
    load_clip(name, [picture(0, (24, 24))], data, "cpu", Silent(), notes.append)
    assert names == [expected] and not notes and DEFAULT not in EMBEDDED


def test_no_clip_model_where_there_is_nothing_to_look_at(monkeypatch):
    monkeypatch.setattr(clips, "ClipScorer", lambda *_: pytest.fail("one is loaded"))
    notes: list[str] = []
    text = [Sample("a", None, prompt="b")]
    assert load_clip("auto", text, "prompts.txt", "cpu", Silent(), notes.append) is None
    assert load_clip("none", load_samples(SCENES, 1), SCENES, "cpu", Silent(), notes.append) is None
    assert notes == ["no CLIP score: collapse is judged without it"] * 2
    with pytest.raises(OptionError, match="clip is 'tiny-clip', and the samples have no images"):
        load_clip("tiny-clip", text, "prompts.txt", "cpu", Silent(), notes.append)


def test_another_kind_of_model_is_refused_by_name():
    with pytest.raises(ModelError, match=r"the CLIP model 'tiny-llava' cannot be loaded \(its model type is 'llava', expected"):
        ClipScorer("tiny-llava", "cpu")
