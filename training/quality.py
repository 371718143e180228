"""Held-out quality of an embedded model: what its card records and what a test asserts on the shipped weights."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from lesion.zoo.captions import DEFAULT_PROMPT, first_named, questions
from lesion.zoo.drawing import draw
from lesion.zoo.scenes import COLOURS, held_out


def is_right(text: str, truth: str) -> bool:
    """Whether an answer begins with the right yes or no, or gives the right colour or side and no other."""
    words = re.findall(r"\w+", text.lower())
    if truth in ("yes", "no"):
        return words[:1] == [truth]
    return [word for word in words if word in (*COLOURS, "left", "right")] == [truth]


@torch.no_grad()
def answers(model: Any, processor: Any, pictures: list[Image.Image], prompts: list[str], longest: int = 48) -> list[str]:
    """Greedy answers, one prompt a picture, through the model's own processor and ``generate``."""
    if getattr(processor, "chat_template", None):
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}],
                add_generation_prompt=True,
            )
            for prompt in prompts
        ]
    inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def held_out_quality(model: Any, processor: Any, count: int = 256, batch: int = 64) -> dict[str, float]:
    """Shares of held-out scenes: first object and its colour named right, yes/no right, other questions right."""
    training = model.training
    model.eval()
    scenes = held_out(count)
    named, yes_no, other = [], [], []
    for i in range(0, count, batch):
        group = scenes[i : i + batch]
        told = answers(model, processor, [draw(s) for s in group], [DEFAULT_PROMPT] * len(group))
        for scene, text in zip(group, told, strict=True):
            named.append(first_named(text) == (scene.main.colour, scene.main.category))
        asked = [(scene, *question) for scene in group for question in questions(scene)]
        for j in range(0, len(asked), batch):
            part = asked[j : j + batch]
            said = answers(model, processor, [draw(a[0]) for a in part], [a[1] for a in part], longest=8)
            for (_, _, truth), text in zip(part, said, strict=True):
                (yes_no if truth in ("yes", "no") else other).append(is_right(text, truth))
    model.train(training)
    return {
        "first_object_and_colour": round(sum(named) / len(named), 4),
        "yes_no": round(sum(yes_no) / len(yes_no), 4),
        "colour_and_side": round(sum(other) / len(other), 4),
    }


def noise_described(model: Any, processor: Any, noise: Callable[[random.Random], Image.Image], count: int = 64) -> float:
    """Share of pictures of noise in which an object and its colour are named."""
    rng = random.Random(20_000_000)  # no training stream's seed
    pictures = [noise(rng) for _ in range(count)]
    said = answers(model, processor, pictures, [DEFAULT_PROMPT] * count)
    return round(sum(first_named(text) is not None for text in said) / count, 4)
