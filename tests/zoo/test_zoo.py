"""The shipped weights: size, loading through the Auto classes, and quality on held-out scenes."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel, CLIPProcessor

from lesion.zoo import EMBEDDED, folder
from training.quality import held_out_quality
from training.tiny_clip import accuracy, mean_scores


def test_the_three_together_are_small():
    files = [p for name in EMBEDDED for p in folder(name).iterdir()]
    assert sum(p.stat().st_size for p in files) <= 25_000_000
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pkl")], "weights are safetensors"


@pytest.mark.parametrize("name", ["tiny-llava", "tiny-instructblip"])
def test_held_out_quality(name):
    model = AutoModelForImageTextToText.from_pretrained(folder(name))
    found = held_out_quality(model, AutoProcessor.from_pretrained(folder(name)), 128)
    assert found["first_object_and_colour"] >= 0.9
    assert found["yes_no"] >= 0.9


def test_tiny_clip_finds_the_true_caption():
    model, processor = CLIPModel.from_pretrained(folder("tiny-clip")), CLIPProcessor.from_pretrained(folder("tiny-clip"))
    assert accuracy(model, processor, rounds=8) >= 0.8
    scores = mean_scores(model, processor)
    assert scores["clip_score_nonsense"] <= scores["clip_score_other"] + 5 < scores["clip_score_own"] - 40


@pytest.mark.parametrize("name", EMBEDDED)
def test_cards_say_how_it_was_made(name):
    card = json.loads((folder(name) / "card.json").read_text())
    assert card["command"] == f"python -m training.{name.replace('-', '_')}"
    assert {"seed", "steps", "final_loss", "minutes", "parameters"} <= set(card)
    text = (folder(name) / "README.md").read_text()
    assert name in text
    if name == "tiny-llava":
        assert "known truth" in text and "not evidence about real models" in text


SLOW = "65.8 minutes, as its card logs, with other work beside it; a shorter recipe that keeps its quality is still to be found"


@pytest.mark.parametrize(
    "name",
    # Strict: as soon as a card is within the bound, this mark must go.
    [pytest.param("tiny-llava", marks=pytest.mark.xfail(reason=SLOW, strict=True)), "tiny-instructblip", "tiny-clip"],
)
def test_made_within_an_hour(name):
    assert json.loads((folder(name) / "card.json").read_text())["minutes"] <= 60
