"""The parts of the trainings that a reader of a card must be able to trust."""

from __future__ import annotations

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
