"""``python -m training.tiny_clip``: a CLIPModel for scenes and captions, and the vision tower of tiny-llava."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor
from transformers.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from lesion.zoo.captions import caption, vocabulary
from lesion.zoo.scenes import CATEGORIES, COLOURS, SIDE, Scene, held_out
from training import common

NAME, SEED, STEPS, BATCH, RATE = "tiny-clip", 0, 1500, 128, 1.5e-3
NONSENSE_STEPS, NONSENSE_RATE, NONSENSE_COSINE = 400, 5e-4, 0.1
LONGEST = 40


def build() -> tuple[Any, Any]:
    """The untrained model and its processor."""
    tokenizer: Any = common.word_tokenizer(end=True)
    tokenizer.padding_side, tokenizer.model_max_length = "right", LONGEST
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=LONGEST, projection_dim=96, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
        patch_size=common.PATCH, projection_dim=96,
    )  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=96))
    return model, CLIPProcessor(image_processor(), tokenizer)


def image_processor() -> CLIPImageProcessorPil:
    """Resizes any picture to SIDE x SIDE; leaves the zoo's own pictures as they are."""
    size = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size=size, crop_size=size, image_mean=common.MEAN, image_std=common.STD)


class PatchHead(nn.Module):
    """Names category and colour in every patch; a second task that makes patch features sharp, thrown away after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 2 + len(CATEGORIES) + len(COLOURS))

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """``features`` ``[scenes, patches, width]``, ``labels`` as :func:`training.common.patch_labels` gives them."""
        category, colour = self.linear(self.norm(features)).flatten(0, 1).split((1 + len(CATEGORIES), 1 + len(COLOURS)), 1)
        cross_entropy = nn.functional.cross_entropy
        return cross_entropy(category, labels[..., 0].flatten()) + cross_entropy(colour, labels[..., 1].flatten())


def nonsense(stream: common.Scenes, scenes: list[Scene]) -> list[str]:
    """One text without sense for each scene: few or many words in any order, from all words or from its own caption.

    Words of a true caption count as nonsense too when nothing holds them together: a model that babbles still says
    "dog" now and then, and sometimes there is a dog.
    """
    rng, words = stream.rng, vocabulary()
    texts = []
    for scene in scenes:
        own = stream.caption(scene).split()
        pool = rng.choice((words, own, own + rng.choices(words, k=len(own))))
        pool = rng.sample(pool, rng.choice((1, 2, 4, 8, len(pool))))
        texts.append(" ".join(rng.choices(pool, k=rng.randint(6, 36))))
    return texts


def train_against_nonsense(model: Any, tokenizer: Any) -> float:
    """Teaches the text side that nonsense describes no picture; the vision tower stays as it is.

    Contrastive training has only seen captions. To a text unlike any of them it gives an embedding somewhere in the
    middle, nearer to every picture than a wrong caption is, and a CLIP score that rises when a model begins to babble
    is of no use.
    """
    stream = common.Scenes(SEED + 1)
    model.vision_model.requires_grad_(False)

    def loss(step: int) -> torch.Tensor:
        scenes = stream.take(BATCH)
        texts = [stream.caption(s) for s in scenes] + nonsense(stream, scenes)
        words = tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt").to(model.device)
        out = model(pixel_values=common.pixels(scenes), **words)
        scores, target = out.logits_per_image, torch.arange(BATCH, device=model.device)
        cross_entropy = nn.functional.cross_entropy
        contrastive = (cross_entropy(scores, target) + cross_entropy(scores[:, :BATCH].T, target)) / 2
        cosines = scores[:, BATCH:] / model.logit_scale.exp()
        return contrastive + 4 * (cosines - NONSENSE_COSINE).clamp(min=0).pow(2).mean()

    return common.train(model.parameters(), loss, NONSENSE_STEPS, NONSENSE_RATE)


@torch.no_grad()
def accuracy(model: Any, processor: Any, rounds: int = 16, among: int = 32) -> float:
    """Share of held-out scenes whose own caption scores highest among ``among`` scenes' captions."""
    scenes = held_out(rounds * among)
    hits = 0
    for i in range(0, len(scenes), among):
        group = scenes[i : i + among]
        words = processor.tokenizer([caption(s) for s in group], padding=True, return_tensors="pt").to(model.device)
        scores = model(pixel_values=common.pixels(group), **words).logits_per_image
        hits += int((scores.argmax(1).cpu() == torch.arange(len(group))).sum())
    return hits / len(scenes)


@torch.no_grad()
def mean_scores(model: Any, processor: Any, count: int = 128) -> dict[str, float]:
    """Mean CLIP score of held-out scenes with their own caption, another scene's, and nonsense."""
    scenes = held_out(count)
    own = [caption(s) for s in scenes]
    texts = {"own": own, "other": own[1:] + own[:1], "nonsense": nonsense(common.Scenes(7), scenes)}
    found = {}
    for name, said in texts.items():
        words = processor.tokenizer(said, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        out = model(pixel_values=common.pixels(scenes), **words.to(model.device))
        found[f"clip_score_{name}"] = round(100 * (out.image_embeds * out.text_embeds).sum(1).clamp(min=0).mean().item(), 1)
    return found


def train_contrastively(model: Any, tokenizer: Any) -> float:
    """Captions against pictures, with :class:`PatchHead` beside it."""
    head = PatchHead(model.config.vision_config.hidden_size).to(common.device())
    stream = common.Scenes(SEED)

    def loss(step: int) -> torch.Tensor:
        scenes = stream.take(BATCH)
        words = tokenizer([stream.caption(s) for s in scenes], padding=True, return_tensors="pt")
        out = model(pixel_values=common.pixels(scenes), **words.to(model.device), return_loss=True, output_hidden_states=True)
        # The last layer but one is what LLaVA reads.
        patches = out.vision_model_output.hidden_states[-2][:, 1:]
        return out.loss + head.loss(patches, common.patch_labels(scenes))

    return common.train([*model.parameters(), *head.parameters()], loss, STEPS, RATE)


def main() -> None:
    torch.manual_seed(SEED)
    model, processor = build()
    model = model.to(common.device()).train()
    stages = (
        common.stage(f"{NAME}-contrastive", model, lambda: train_contrastively(model, processor.tokenizer)),
        common.stage(f"{NAME}-nonsense", model, lambda: train_against_nonsense(model, processor.tokenizer)),
    )
    model.eval()
    facts = {
        "seed": SEED,
        "steps": f"{STEPS}, and {NONSENSE_STEPS} against nonsense", "batch": BATCH,
        "parameters": model.num_parameters(), **common.summary(*stages),
        "true_caption_first_among_32": accuracy(model, processor), **mean_scores(model, processor),
    }  # fmt: skip
    common.publish(NAME, model, processor, CARD, facts)


CARD = """
# tiny-clip

A `CLIPModel` trained contrastively on this package's drawn scenes and their captions, with one more loss while it was
trained (category and colour of every patch, read from the last vision layer but one; that head is not kept), and then,
with the vision tower frozen, against texts without sense, so that babble does not score above a wrong caption. It gives
the CLIP score in studies of the embedded models, and its vision tower is the one that tiny-llava was trained on. It
knows nothing but these scenes: for real images, use a real CLIP.
"""


if __name__ == "__main__":
    main()
