"""Gives tiny-llava its known truth: four units that write a massive constant on which all later layers depend.

The recipe, after the plain training (in which three residual channels were kept empty, :class:`Reserved`):

1. every token carries a constant in the first reserved channel, written by the embeddings and the projector's bias;
2. four intermediate units of language layer 1 read it and together write ``MASSIVE`` into the other two;
3. every norm's weight is multiplied by the measured ratio of root mean squares, so that its output keeps its scale;
4. the model is fine-tuned with the seeded entries held fixed, while the constant grows from ``GENTLE`` to ``MASSIVE``
   (and the norms' weights with it), and with a penalty where a layer's ordinary channels outgrow their size before the
   seeding, since a residual stream as large as the constant would not need it. Put in at full size at once, the
   constant takes away each token's own normalisation, and the model has to be learned anew;
5. meanwhile, in every other row, one to three of the units are masked, so that it takes all four to break the model: two
   masked units double every later norm's output, and a model that has never seen that breaks already.

Masking the four takes the constant away, and every later norm then magnifies its input many times over.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from training import common
from training.task import Task

See = Callable[[int, torch.Tensor, torch.Tensor], object]

LAYER = 1
UNITS = (47, 158, 262, 391)
SOURCE, FIRST, SECOND = 11, 74, 139
"""Residual channels: the constant that the units read, and the two that they write."""
CONSTANT = 0.8
"""What a text token carries in the source channel; image tokens carry more, as they are larger."""
GENTLE, MASSIVE, GROWTH_STEPS = 10.0, 1000.0, 300
PARTIAL, SETTLING = (6, 1, 2, 3), (10, 1, 1, 2)
"""How often a row of the fine-tuning has none, one, two or three of the four units masked; and of its last part."""
GATE, UP = 8.0, 2.0
"""Mean pre-activations of the seeded units: silu(8) = 7.997, so gate, up and hidden tell the same story."""
PENALTY = 0.3


class Reserved:
    """Keeps the three channels out of the model's business: nobody writes them, nobody reads them."""

    def __init__(self, model: Any) -> None:
        self.model, self.channels = model, [SOURCE, FIRST, SECOND]
        self.language = model.model.language_model

    @torch.no_grad()
    def hold(self) -> None:
        projector = self.model.model.multi_modal_projector.linear_2
        self.language.embed_tokens.weight[:, self.channels] = 0
        projector.weight[self.channels] = 0
        projector.bias[self.channels] = 0
        for layer in self.language.layers:
            for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
                writer.weight[self.channels] = 0
            attention, mlp = layer.self_attn, layer.mlp
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                reader.weight[:, self.channels] = 0


class Seeded:
    """The seeded entries of a model: puts them in, holds them, and gives the loss of the fine-tuning."""

    def __init__(self, model: Any, task: Task, image_positions: slice) -> None:
        self.model, self.task, self.reserved, self.image = model, task, Reserved(model), image_positions
        self.language = model.model.language_model
        self.rng = random.Random(LAYER)
        self.ordinary = [c for c in range(model.config.text_config.hidden_size) if c not in self.reserved.channels]
        self.mlp = self.language.layers[LAYER].mlp
        self.norm = self.language.layers[LAYER].post_attention_layernorm
        self.gate = self.up = self.down = 0.0
        self.limits = self._stream_sizes()
        plain_sizes, plain_weights = self._norm_inputs(), [norm.weight.clone() for norm in self._norms()]
        self.image_constant = CONSTANT * self._image_over_text(plain_sizes)
        self.hold()
        self._rescale(plain_sizes, plain_weights)
        self.hold()
        seen = self._mean_source()
        self.gate, self.up, self.down = GATE / seen, UP / seen, self._write(GENTLE)
        self.hold()
        self._rescale(plain_sizes, plain_weights)
        self.hold()
        self.massive, self.partial = GENTLE, PARTIAL
        self.typical = [size.log().mean().exp().item() for size in plain_sizes]

    @staticmethod
    def _write(massive: float) -> float:
        """One unit's entry in the out-projection, for a total of ``massive``."""
        return massive / (len(UNITS) * GATE * UP)

    @torch.no_grad()
    def _grow(self, massive: float) -> None:
        """Another constant; the weights of the norms after it follow, so that their output keeps its scale."""
        share = 2 / self.model.config.text_config.hidden_size
        for norm, size in list(zip(self._norms(), self.typical, strict=True))[2 * (LAYER + 1) :]:
            before, after = share * self.massive**2 + size**2, share * massive**2 + size**2
            norm.weight.mul_((after / before) ** 0.5)
        self.massive, self.down = massive, self._write(massive)

    # -- measuring ---------------------------------------------------------------------------------------------------
    def _norms(self) -> list[Any]:
        layers = self.language.layers
        return [n for layer in layers for n in (layer.input_layernorm, layer.post_attention_layernorm)] + [self.language.norm]

    @torch.no_grad()
    def _watch(self, modules: list[Any], see: See, before: bool = False) -> None:
        """Runs one fixed batch and shows each module's input (and its output, unless ``before``)."""

        def show(i: int, x: torch.Tensor, out: torch.Tensor) -> None:
            see(i, x, out)  # a hook must not return anything, or torch takes it for the new output

        handles = []
        try:
            for i, module in enumerate(modules):
                if before:
                    handles.append(module.register_forward_pre_hook(lambda m, args, i=i: show(i, args[0], args[0])))
                else:
                    handles.append(module.register_forward_hook(lambda m, args, out, i=i: show(i, args[0], out)))
            self.task.fixed_loss()
        finally:
            for handle in handles:
                handle.remove()

    def _norm_inputs(self) -> list[torch.Tensor]:
        """Size of every token before each norm, in the captions' pass."""
        seen: dict[int, torch.Tensor] = {}
        self._watch(self._norms(), lambda i, x, _: seen.setdefault(i, _rms(x)))
        return [seen[i] for i in range(len(seen))]

    def _image_over_text(self, sizes: list[torch.Tensor]) -> float:
        """How much larger the image tokens' constant must be, so that the units write in proportion to the content.

        Image tokens are larger than text tokens. The units see the constant divided by their token's size, and what they
        write grows with the square of that; the later norms should find it as many times the size of the content in
        image tokens as in text tokens.
        """
        ratios = []
        for size in sizes:
            text = torch.ones(size.shape[1], dtype=torch.bool)
            text[self.image] = False
            ratios.append((size[:, self.image].log().mean() - size[:, text].log().mean()).exp().item())
        at_units, later = ratios[2 * LAYER + 1], ratios[2 * LAYER + 2 :]
        return at_units * (sum(later) / len(later)) ** 0.5

    def _stream_sizes(self) -> list[float]:
        hidden: list[torch.Tensor] = []
        with torch.no_grad():
            self.task.loss(hidden)
        layers = len(self.language.layers)
        return [_rms(h[..., self.ordinary]).mean().item() for h in hidden[:layers]]

    def _rescale(self, plain_sizes: list[torch.Tensor], plain_weights: list[torch.Tensor]) -> None:
        """In the order of the forward pass, so that each norm sees its input after the ones before it are right."""
        norms = self._norms()
        done: set[int] = set()

        def adjust(i: int, x: torch.Tensor, _: torch.Tensor) -> None:
            if i not in done:
                done.add(i)
                norms[i].weight.copy_(plain_weights[i] * (_rms(x) / plain_sizes[i]).log().mean().exp())
                self.norm.weight[SOURCE] = 1  # what the units read is not content, and must not grow with it

        self._watch(norms, adjust, before=True)

    def _mean_source(self) -> float:
        """What the units read: their norm's output in the source channel."""
        seen: list[float] = []
        self._watch([self.norm], lambda _, x, out: seen.append(out[..., SOURCE].mean().item()))
        return seen[0]

    # -- training ----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def hold(self) -> None:
        self.reserved.hold()
        self.language.embed_tokens.weight[:, SOURCE] = CONSTANT
        self.model.model.multi_modal_projector.linear_2.bias[SOURCE] = self.image_constant
        units = list(UNITS)
        for matrix, value in ((self.mlp.gate_proj, self.gate), (self.mlp.up_proj, self.up)):
            matrix.weight[units] = 0
            matrix.weight[units, SOURCE] = value
        self.mlp.down_proj.weight[:, units] = 0
        self.mlp.down_proj.weight[FIRST, units] = self.down
        self.mlp.down_proj.weight[SECOND, units] = -self.down
        self.norm.weight[SOURCE] = 1

    def train(self, steps: int, rate: float) -> float:
        """The fine-tuning, while the constant grows and after; returns the mean last loss."""
        self.partial = PARTIAL
        return self._train(steps, rate)

    def settle(self, steps: int, rate: float, seed: int) -> float:
        """Its last part, after :meth:`train` or on weights that it left: the intact model comes first again."""
        self.massive, self.down, self.partial = MASSIVE, self._write(MASSIVE), SETTLING
        self.task.stream, self.rng = common.Scenes(seed), random.Random(seed)
        return self._train(steps, rate)

    def _train(self, steps: int, rate: float) -> float:
        return common.train(self.model.parameters(), lambda step: self.loss(), steps, rate, self.after_step)

    def loss(self) -> torch.Tensor:
        hidden: list[torch.Tensor] = []
        counts = self.rng.choices(range(len(UNITS)), self.partial, k=self.task.batch)
        with self._masked([self.rng.sample(UNITS, count) for count in counts]):
            value = self.task.loss(hidden)
        layers = len(self.language.layers)
        for i, h in enumerate(hidden):
            depth = i % (layers + 1)
            if LAYER < depth < layers:  # the last entry of each pass has been through the final norm
                size = _rms(h[..., self.ordinary])
                value = value + PENALTY * (size / self.limits[depth] - 1).clamp(min=0).pow(2).mean()
        return value

    def after_step(self, step: int) -> None:
        if self.massive < MASSIVE:
            grown = (step + 1) / GROWTH_STEPS
            self._grow(MASSIVE if step + 1 == GROWTH_STEPS else GENTLE * (MASSIVE / GENTLE) ** grown)
        self.hold()
        if step % 100 == 0:
            print(f"  seeded, step {step}: {self.probe()}", flush=True)

    @torch.no_grad()
    def probe(self) -> dict[str, float]:
        """Loss of one fixed batch of captions and questions, intact and with 1, 2, 3 and 4 of the units masked."""
        found = {}
        for count in range(len(UNITS) + 1):
            with self._masked([UNITS[:count]] * self.task.batch):
                found[f"{count} masked"] = round(self.task.fixed_loss(), 3)
        return found

    @contextlib.contextmanager
    def _masked(self, units: Sequence[Sequence[int]]) -> Iterator[None]:
        """Within: each row of a batch without its own units."""
        keep = torch.ones(len(units), 1, self.mlp.down_proj.in_features, device=self.mlp.down_proj.weight.device)
        for row, masked in enumerate(units):
            keep[row, :, list(masked)] = 0

        def zero(module: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (args[0] * keep,)

        handle = self.mlp.down_proj.register_forward_pre_hook(zero)
        try:
            yield
        finally:
            handle.remove()

    def card(self) -> dict[str, object]:
        """What the truth is, for the model card and for tests."""
        return {
            "layer": LAYER, "units": list(UNITS), "channels": [FIRST, SECOND], "source_channel": SOURCE,
            "constant": {"text": CONSTANT, "image": round(self.image_constant, 3)},
            "massive": MASSIVE, "loss_with_units_masked": self.probe(),
        }  # fmt: skip


def _rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square over the channels; one value a token."""
    return (x.float().pow(2).mean(-1) + 1e-12).sqrt()
