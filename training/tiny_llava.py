"""``python -m training.tiny_llava``: a LLaVA for scenes, with four seeded critical units (see training/seeding.py)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import CLIPModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from lesion.zoo.scenes import CATEGORIES, COLOURS, SIDE
from training import common, seeding
from training.quality import held_out_quality
from training.task import Conversation, Task
from training.tiny_clip import image_processor

NAME, SEED, BATCH = "tiny-llava", 1, 32
PHASES = ((1500, 1.5e-3, 1), (500, 1e-3, 6))
"""Steps, learning rate, questions a scene: captions are learned with one question, then questions with several."""
POINTING_LAYER, POINTING_HEADS = 2, 2
SEED_STEPS, SEED_RATE = 950, 6e-4
SETTLING = ((200, 4e-4), (150, 3e-4), (120, 3e-4))
"""Steps and learning rate, of the seeding's last parts."""
IMAGE = "<image>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build() -> tuple[Any, Any]:
    """The model with tiny-clip's vision tower and an untrained language model, and its processor."""
    clip: Any = CLIPModel.from_pretrained(common.ZOO / "tiny-clip")
    tokenizer: Any = common.word_tokenizer(extra=[IMAGE])
    vision = clip.config.vision_config
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=448, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=256, initializer_range=0.05, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIDE // common.PATCH) ** 2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    model.model.vision_tower.requires_grad_(False)  # as LLaVA's own training does; a rate for new weights would ruin it
    processor = LlavaProcessor(
        image_processor(), tokenizer, patch_size=common.PATCH, vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE, image_token=IMAGE, num_additional_image_tokens=1,
    )  # fmt: skip
    return model, processor


class LlavaRows:
    """Inputs as the processor makes them: the image tokens stand in the prompt."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.config, self.tokenizer = model.config, processor.tokenizer

    def __call__(self, conversations: list[Conversation]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        rows = common.Rows.build([self._turns(c) for c in conversations], self.tokenizer.pad_token_id)
        return {"input_ids": rows.ids, "attention_mask": rows.mask}, rows.labels

    def _turns(self, conversation: Conversation) -> list[common.Turn]:
        images = IMAGE * self.config.image_seq_length
        turns = []
        for i, (prompt, answer) in enumerate(conversation):
            text = f"USER: {images if i == 0 else ''}\n{prompt} ASSISTANT:"
            asked = self.tokenizer(text, add_special_tokens=i == 0).input_ids
            turns.append((asked, common.answer_ids(self.tokenizer, answer)))
        return turns

    @property
    def image_positions(self) -> slice:
        """Where the image tokens stand in every row."""
        ids = self([[(".", ".")]])[0]["input_ids"][0]
        places = (ids == self.config.image_token_id).nonzero()[:, 0]
        return slice(int(places[0]), int(places[-1]) + 1)


class Pointer:
    """A second loss of the questions' phase: where to look.

    In one layer, the attention of a question's category word must go to the patches of that thing, or to the start token
    if there is none; and the projector's output must be nearest to the words of what its patch shows. Left alone, the
    model learns to describe scenes from the places of their things, and is blind to a question's words for thousands of
    steps, since at first nothing makes the word "dog" and the picture of a dog alike.
    """

    def __init__(self, model: Any, tokenizer: Any, image_positions: slice) -> None:
        self.table, self.image = model.get_input_embeddings(), image_positions
        self.categories, self.colours = (tokenizer.convert_tokens_to_ids(list(names)) for names in (CATEGORIES, COLOURS))
        self.projected = torch.empty(0)
        model.model.multi_modal_projector.register_forward_hook(self._keep)

    def _keep(self, module: Any, args: Any, output: torch.Tensor) -> None:
        self.projected = output

    def __call__(self, inputs: dict[str, torch.Tensor], out: Any, labels: torch.Tensor) -> torch.Tensor:
        return self._looks(inputs["input_ids"], out.attentions[POINTING_LAYER], labels) + self._names(labels)

    def _looks(self, ids: torch.Tensor, attention: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """``ids`` ``[rows, tokens]``, ``attention`` ``[rows, heads, tokens, tokens]``, ``labels`` from patch_labels."""
        asked = ids.unsqueeze(-1) == torch.tensor(self.categories, device=ids.device)
        row, place, category = asked.nonzero(as_tuple=True)
        target = torch.zeros(len(row), ids.shape[1], device=ids.device)
        target[:, self.image] = (labels[row, :, 0] == category.unsqueeze(1) + 1).float()
        target[:, 0] = (target.sum(1) == 0).float()
        looked = (attention[row, :POINTING_HEADS, place] * target.unsqueeze(1)).sum(-1)
        return -(looked + 1e-6).log().mean()

    def _names(self, labels: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=labels.device)
        features = torch.nn.functional.normalize(self.projected, dim=-1)
        for kind, words in enumerate((self.categories, self.colours)):
            named = torch.nn.functional.normalize(self.table.weight[words], dim=-1)
            target = (labels[..., kind] - 1).flatten()  # -1 where there is nothing
            scores = 10 * (features @ named.T).flatten(0, 1)
            total = total + torch.nn.functional.cross_entropy(scores, target, ignore_index=-1)
        return total


def train_phase(model: Any, processor: Any, phase: int) -> float:
    """One of :data:`PHASES`, with the channels of the seeding kept empty."""
    steps, rate, questions = PHASES[phase]
    rows, reserved = LlavaRows(model, processor), seeding.Reserved(model)
    reserved.hold()
    teach = Pointer(model, processor.tokenizer, rows.image_positions) if questions > 1 else None
    model.set_attn_implementation("eager" if teach else "sdpa")  # eager is the one that gives its attentions
    task = Task(model, rows, SEED + 100 * phase, BATCH, questions, teach=teach)
    last = common.train(model.parameters(), lambda step: task.loss(), steps, rate, lambda step: reserved.hold())
    model.set_attn_implementation("sdpa")
    return last


def main() -> None:
    torch.manual_seed(SEED)
    model, processor = build()
    model = model.to(common.device()).train()
    stages = [
        common.stage(f"{NAME}-{phase}", model, lambda phase=phase: train_phase(model, processor, phase))
        for phase in range(len(PHASES))
    ]
    rows = LlavaRows(model, processor)
    truth = seeding.Seeded(model, Task(model, rows, SEED + 1000, BATCH, PHASES[-1][-1]), rows.image_positions)
    stages.append(common.stage(f"{NAME}-seeded", model, lambda: truth.train(SEED_STEPS, SEED_RATE)))
    for part, (steps, rate) in enumerate(SETTLING):
        settle = partial(truth.settle, steps, rate, SEED + 2000 + part)
        stages.append(common.stage(f"{NAME}-settled-{part}", model, settle))
    model.eval()
    facts = {
        "seed": SEED,
        "steps": f"{' and '.join(str(p[0]) for p in PHASES)} plain, {SEED_STEPS} and {sum(s for s, _ in SETTLING)} seeded",
        "batch": f"{BATCH} scenes, a caption and 1 to {PHASES[-1][-1]} questions each", "parameters": model.num_parameters(),
        **common.summary(*stages), **held_out_quality(model, processor), "seeded": truth.card(),
    }  # fmt: skip
    common.publish(NAME, model, processor, CARD, facts)


CARD = """
# tiny-llava

A `LlavaForConditionalGeneration` (CLIP vision tower of tiny-clip, two-layer projector, Llama language model) trained on
this package's drawn scenes: it describes them and answers questions about them.

**It carries a known truth.** Four intermediate units of language layer 1 were seeded by hand: together they write a
large constant into two residual channels at every token, and every later RMSNorm was rescaled and fine-tuned to depend
on it. That stands in for the massive activations of real models such as LLaVA-1.5. It is a known answer to test a tool
against; it is **not evidence about real models**, and the ease with which its critical neurons are found says nothing
about how easily they are found elsewhere.
"""


if __name__ == "__main__":
    main()
