"""The parts of the trainings that a reader of a card must be able to trust."""

from __future__ import annotations

import json
from types import SimpleNamespace

import torch

from lesion.zoo.scenes import held_out
from training import common, tiny_clip, tiny_instructblip


def test_a_finished_stage_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "STAGES", tmp_path)
    calls = []

    def run(model):
        calls.append(model)
        torch.nn.init.constant_(model.weight, len(calls))
        return 0.5

    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    one = common.stage("part", first, lambda: run(first))
    two = common.stage("part", second, lambda: run(second))
    assert calls == [first] and one == two
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert common.summary(one, two)["final_loss"] == [0.5, 0.5]


def test_a_published_training_starts_anew_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "STAGES", tmp_path / "stages")
    monkeypatch.setattr(common, "ZOO", tmp_path)
    for name in ("tiny-a", "tiny-b"):
        common.stage(f"{name}-part", torch.nn.Linear(2, 2), lambda: 0.5)
    (tmp_path / "tiny-a").mkdir()
    saver = SimpleNamespace(save_pretrained=lambda folder: None)
    common.publish("tiny-a", saver, saver, "# tiny-a", {"minutes": 1.0})
    assert [p.name for p in (tmp_path / "stages").iterdir()] == ["tiny-b-part.pt"]
    card = json.loads((tmp_path / "tiny-a" / "card.json").read_text())
    assert card == {"command": "python -m training.tiny_a", "minutes": 1.0}


def test_the_vision_model_sees_each_picture_once():
    torch.manual_seed(0)
    vision = tiny_instructblip.build()[0].vision_model.eval()
    pictures = common.pixels(held_out(2))
    repeated = pictures[torch.tensor([0, 0, 0, 1])]
    with torch.no_grad():
        expected = vision(pixel_values=repeated, return_dict=True).last_hidden_state
    seen = []
    vision.embeddings.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    with tiny_instructblip.once_per_picture(vision):
        for rows in (pictures, repeated):
            found = vision(pixel_values=rows, return_dict=True).last_hidden_state
    assert seen == [2]
    torch.testing.assert_close(found, expected)
    assert vision(pixel_values=repeated).last_hidden_state.requires_grad, "what was replaced is put back"


def test_nonsense_can_be_made_of_true_words():
    scenes = held_out(64)
    texts = tiny_clip.nonsense(common.Scenes(0), scenes)
    assert texts == tiny_clip.nonsense(common.Scenes(0), scenes)
    assert len(texts) == 64 and all(6 <= len(text.split()) <= 36 for text in texts)
    named = [scene.main.category in text.split() for scene, text in zip(scenes, texts, strict=True)]
    assert 8 <= sum(named) <= 56
