"""What the three trainings share: tokenizers, batches of freshly drawn scenes, the loop, the model card."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import lesion.zoo
from lesion.zoo import captions
from lesion.zoo.drawing import draw
from lesion.zoo.scenes import CATEGORIES, COLOURS, SIDE, TRAIN_SEEDS, Scene

ZOO = Path(lesion.zoo.__file__).parent
STAGES = Path("build/training")
PATCH = 12
PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"
SPECIAL = (PAD, UNK, BOS, EOS)
MEAN = STD = (0.5, 0.5, 0.5)


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def word_tokenizer(extra: Iterable[str] = (), start: bool = True, end: bool = False) -> PreTrainedTokenizerFast:
    """One token a word or punctuation mark, lower case; every text of :mod:`lesion.zoo.captions` is covered.

    Args:
        extra: More special tokens, such as ``<image>``.
        start: Put the start token before every text.
        end: Put the end token after every text (CLIP reads its text embedding there).
    """
    special = [*SPECIAL, *extra]
    vocabulary = {word: i for i, word in enumerate([*special, *captions.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    pattern = ([BOS] if start else []) + ["$A"] + ([EOS] if end else [])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(pattern), special_tokens=[(t, vocabulary[t]) for t in (BOS, EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, bos_token=BOS, eos_token=EOS,
        additional_special_tokens=list(extra), padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip


class Scenes:
    """An endless stream of training scenes; the same seed gives the same stream."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def take(self, count: int) -> list[Scene]:
        return [Scene.from_seed(self.rng.choice(TRAIN_SEEDS)) for _ in range(count)]

    def caption(self, scene: Scene) -> str:
        return captions.caption(scene, self.rng)

    def prompt(self) -> str:
        """The default prompt in four cases of five, else another one."""
        return captions.DEFAULT_PROMPT if self.rng.random() < 0.8 else self.rng.choice(captions.PROMPTS)

    def question(self, scene: Scene) -> tuple[str, str]:
        """A yes/no question half of the time, else colour or side; "yes" and "no" equally often."""
        asked = captions.questions(scene)
        kinds = [q for q in asked if q[1] in ("yes", "no")], [q for q in asked if q[1] not in ("yes", "no")]
        return self.rng.choice(kinds[self.rng.random() < 0.5])

    def questions(self, scene: Scene, count: int) -> list[tuple[str, str]]:
        """Several different questions; the yes/no ones first, since a question of a dog's colour gives the dog away."""
        if count == 1:
            return [self.question(scene)]
        asked = captions.questions(scene)
        chosen = self.rng.sample(asked, min(count, len(asked)))
        return sorted(chosen, key=lambda q: q[1] not in ("yes", "no"))


def pixels(scenes: list[Scene]) -> torch.Tensor:
    """``[scenes, 3, SIDE, SIDE]``, scaled as the models' image processors do."""
    return to_pixels([draw(scene) for scene in scenes])


def to_pixels(pictures: list[Image.Image]) -> torch.Tensor:
    array = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    return torch.from_numpy((array / 255.0 - MEAN[0]) / STD[0]).permute(0, 3, 1, 2).float().contiguous().to(device())


def patch_labels(scenes: list[Scene]) -> torch.Tensor:
    """``[scenes, patches, 3]``: category, colour and place in the scene of the thing that covers a patch, 0 for none."""
    side = SIDE // PATCH
    labels = torch.zeros(len(scenes), side, side, 3, dtype=torch.long)
    for label, scene in zip(labels, scenes, strict=True):
        for place, thing in enumerate(scene.things, start=1):
            left, top, right, bottom = (round(edge / PATCH) for edge in thing.box)
            kind = torch.tensor([1 + CATEGORIES.index(thing.category), 1 + COLOURS.index(thing.colour), place])
            label[max(top, 0) : max(bottom, top + 1), max(left, 0) : max(right, left + 1)] = kind
    return labels.flatten(1, 2).to(device())


Turn = tuple[list[int], list[int]]
"""Token ids of a prompt, and of its answer."""


@dataclass
class Rows:
    """Conversations as one right-padded batch: ``ids``, ``mask``, and ``labels`` (-100 outside the answers)."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def build(cls, conversations: list[list[Turn]], pad: int) -> Rows:
        longest = max(sum(len(asked) + len(told) for asked, told in turns) for turns in conversations)
        ids = torch.full((len(conversations), longest), pad)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, turns in enumerate(conversations):
            end = 0
            for asked, told in turns:
                start, end = end, end + len(asked) + len(told)
                ids[row, start:end] = torch.tensor(asked + told)
                labels[row, end - len(told) : end] = torch.tensor(told)
            mask[row, :end] = 1
        return cls(ids.to(device()), mask.to(device()), labels.to(device()))


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer and the end token."""
    return [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def train(
    parameters: Iterable[torch.nn.Parameter],
    loss: Callable[[int], torch.Tensor],
    steps: int,
    rate: float,
    after_step: Callable[[int], None] | None = None,
    warmup: int = 50,
    floor: float = 0.02,
) -> float:
    """AdamW with warm-up and a cosine; gradients clipped at norm 1. Returns the mean loss of the last 50 steps.

    Args:
        parameters: What is trained.
        loss: Given the step, draws a batch and returns its loss.
        steps: How many.
        rate: The highest learning rate.
        after_step: Called after each update, for entries that are held fixed and for logging.
        warmup: Steps of linear warm-up.
        floor: The last learning rate as a share of the highest.
    """
    trained = [p for p in parameters if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], lr=rate, betas=(0.9, 0.98)
    )
    start, recent = time.time(), []
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * cosine)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        recent = [*recent[-49:], value.item()]
        if after_step is not None:
            after_step(step)
        if step % 25 == 24 or step == steps - 1:
            print(f"step {step + 1}/{steps}  loss {np.mean(recent):.4f}  {time.time() - start:.0f} s", flush=True)
    return float(np.mean(recent))


@dataclass(frozen=True)
class Stage:
    """A finished part of a training: its mean last loss, and how long it took."""

    loss: float
    minutes: float


def stage(name: str, model: torch.nn.Module, run: Callable[[], float]) -> Stage:
    """Runs a part of a training, or takes its weights from an earlier, interrupted call of the same command.

    Every part makes its own optimizer and its own stream of scenes, and no model has dropout, so a part depends on
    nothing but the weights that it starts from: resumed or not, the end is the same.

    Args:
        name: Names the file of the part's weights, in ``build/training``; delete it to run the part anew.
        model: Trained in place.
        run: Does the work; returns the mean last loss.
    """
    file = STAGES / f"{name}.pt"
    if file.exists():
        saved = torch.load(file, map_location=device())
        model.load_state_dict(saved["weights"])
        print(f"{name}: taken from {file}", flush=True)
        return Stage(saved["loss"], saved["minutes"])
    start = time.time()
    loss = run()
    done = Stage(loss, (time.time() - start) / 60)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": model.state_dict(), "loss": done.loss, "minutes": done.minutes}, file)
    return done


def summary(*stages: Stage) -> dict[str, object]:
    """A card's figures of the training itself."""
    return {
        "final_loss": [round(stage.loss, 4) for stage in stages],
        "minutes": round(sum(stage.minutes for stage in stages), 1),
    }


def publish(name: str, model: Any, processor: Any, text: str, facts: dict[str, object]) -> None:
    """Puts weights, processor and card into the package."""
    model.save_pretrained(ZOO / name)
    processor.save_pretrained(ZOO / name)
    publish_card(name, text, facts)


def publish_card(name: str, text: str, facts: dict[str, object]) -> None:
    """Puts the card into the package: ``README.md`` for people, ``card.json`` for tests.

    The training is over, so the files of its parts go: the next call of the command must not take old ones for its own.
    """
    folder = ZOO / name
    facts = {"command": f"python -m training.{name.replace('-', '_')}", **facts}
    print(facts)
    (folder / "card.json").write_text(json.dumps(facts, indent=2) + "\n")
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if not isinstance(value, dict | list))
    (folder / "README.md").write_text(f"{text.strip()}\n\n| | |\n|---|---|\n{rows}\n")
    for file in STAGES.glob(f"{name}-*.pt"):
        file.unlink()
