"""Turning the residual stream, so that no channel of it carries alone what critical ``down`` neurons carry.

Llama's layers read the stream through RMS norms. With the norms' weights moved into the linear layers behind them, what is left
of a norm divides by the stream's length, and so does not mind an orthogonal map ``R``: with ``R`` in all that writes into the
stream, and its inverse in all that reads it, the function is the same but for rounding (SliceGPT, arXiv:2401.15024; QuaRot,
arXiv:2404.00456). ``R`` is a product of reflections, one a critical channel, that takes the channel's axis to a direction with
a part of every channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.errors import OptionError
from lesion.core.neurons import NeuronSet
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.checkpoint import Asked
from lesion.remedies.remedy import Change
from lesion.remedies.stream import Stream, check_entrance

if TYPE_CHECKING:
    import torch

SEED = 0
"""Chooses the directions."""
AT_A_TIME = 4096
"""Rows of a matrix that are turned together, in float64."""
TIES = "tie_word_embeddings"


class Turn:
    """An orthogonal map that takes some axes to directions with a part of every channel.

    Args:
        channels: The axes.
        width: Number of channels.
        seed: Chooses the directions: signs at random, and made orthogonal to each other where there are several.
    """

    def __init__(self, channels: Sequence[int], width: int, seed: int = SEED) -> None:
        import torch

        signs = torch.randint(2, (width, len(channels)), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
        directions = torch.linalg.qr(signs).Q
        self._mirrors: list[torch.Tensor] = []
        for channel, direction in zip(channels, directions.T, strict=True):
            axis = torch.zeros(1, width, dtype=torch.float64)
            axis[0, channel] = 1
            # The mirrors before leave this axis orthogonal to their directions, and this one leaves those where they are.
            mirror = self(axis)[0] - direction
            if float(mirror.norm()) > 1e-9:
                self._mirrors.append(mirror / mirror.norm())

    def __call__(self, rows: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Rows times the map, computed in float64.

        Args:
            rows: ``[..., width]``.
            scale: By which the channels are multiplied before, ``[width]``.

        Returns:
            The same shape, dtype and device.
        """
        import torch

        # Some devices have no float64.
        place = rows.device if rows.device.type in ("cpu", "cuda") else "cpu"
        turned = torch.empty_like(rows)
        for some, out in zip(rows.split(AT_A_TIME), turned.split(AT_A_TIME), strict=True):
            now = some.to(place, torch.float64)
            now = now if scale is None else now * scale.to(now)
            for mirror in self._mirrors:
                mirror = mirror.to(place)
                now = now - 2 * (now @ mirror)[..., None] * mirror
            out.copy_(now)
        return turned


@dataclass(frozen=True)
class Turned(Change):
    """A residual stream that was turned.

    Attributes:
        channels: Whose axes were taken to directions with a part of every channel.
        seed: What chose the directions.
        width: Channels of the stream.
        largest_before: Largest absolute value that a layer is called with, on the samples' prompts.
        largest_after: The same of the turned model.
        share_before: Of the square sum of that token, the share of the channel that has it.
        share_after: The same of the turned model.
    """

    remedy = "rotate"
    channels: tuple[int, ...]
    seed: int
    width: int
    largest_before: float
    share_before: float
    largest_after: float
    share_after: float

    @property
    def title(self) -> str:
        names = ", ".join(map(str, self.channels[:8])) + (", ..." if len(self.channels) > 8 else "")
        return f"channel{'s' if len(self.channels) > 1 else ''} {names} of its residual stream turned"

    @property
    def summary(self) -> str:
        return (
            f"{self.title} into all {self.width:,}; the largest value that a layer is called with is {self.largest_after:.4g}, "
            f"and was {self.largest_before:.4g}"
        )

    @property
    def done(self) -> str:
        return (
            "whose residual stream lesion turned by an orthogonal map, so that what\nthese output channels of feed-forward "
            f"networks carried alone is spread over all {self.width:,} channels."
        )

    @property
    def otherwise(self) -> str:
        return (
            "The norms' weights are in the linear layers behind them, and the output head has a weight of its own. On the\n"
            f"samples' prompts the largest value that a layer is called with is {self.largest_after:.4g}; it was "
            f"{self.largest_before:.4g}. Channels\nmean something else than the original's, so sets of its `down` neurons are "
            "none of this model's."
        )


@dataclass(frozen=True)
class Rotate:
    """Turns the residual stream."""

    def check(self) -> None:
        """There are no options."""

    def apply(self, vlm: VisionLanguageModel, neurons: NeuronSet, asked: Asked) -> Turned:
        """Turns it, and measures the largest value in it before and after.

        Raises:
            OptionError: A neuron is no ``down`` neuron of the language model.
            ModelError: The model is not built as Llama is; nothing was changed.
        """
        channels = channels_of(neurons)
        stream = Stream.of(vlm)
        turn = Turn(channels, stream.width)
        prompts = [vlm.prompt(sample, asked.prompt) for sample in asked.samples]
        check_entrance(vlm, stream, prompts[0], turn)
        peaks = [_peak(stream, vlm, prompts)]
        rotate(vlm.model, stream, turn)
        peaks.append(_peak(stream, vlm, prompts))
        (before, share_before), (after, share_after) = peaks
        return Turned(tuple(channels), SEED, stream.width, before, share_before, after, share_after)


def channels_of(neurons: NeuronSet) -> list[int]:
    """The channels of the residual stream that neurons write, in ascending order.

    Raises:
        OptionError: A neuron writes none.
    """
    for site in neurons.sites:
        if site.role != "down" or site.component != "language" or site.expert is not None:
            raise OptionError(f"{site.key} holds no output channels of the language model; expected neurons of down")
    return sorted({int(i) for site in neurons.sites for i in neurons.indices(site)})


def rotate(model: Any, stream: Stream, turn: Turn) -> None:
    """Turns a model's residual stream in place.

    Args:
        model: The model.
        stream: Its own.
        turn: The map.
    """
    import torch

    with torch.no_grad():
        _untie(model, stream)
        for norm, readers in stream.readers:
            scale: Any = norm.weight
            for reader in readers:
                reader.weight.copy_(turn(reader.weight, scale))
            scale.fill_(1)
        for writer in stream.writers:
            writer.weight.copy_(turn(writer.weight.T).T)
            if writer.bias is not None:
                writer.bias.copy_(turn(writer.bias[None])[0])
        stream.embedding.weight.copy_(turn(stream.embedding.weight))


def _untie(model: Any, stream: Stream) -> None:
    """Gives the output head a weight of its own, here and wherever the folder is loaded."""
    from torch import nn

    if stream.head.weight is stream.embedding.weight:
        weight = stream.head.weight
        stream.head.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    configs = {id(c): c for c in (getattr(m, "config", None) for m in model.modules()) if c is not None}
    for config in (*configs.values(), model.config.get_text_config()):
        if hasattr(config, TIES):
            setattr(config, TIES, False)


def _peak(stream: Stream, vlm: VisionLanguageModel, prompts: Sequence[Any]) -> tuple[float, float]:
    """The largest absolute value that a layer is called with, and its share of its token's square sum."""
    found = (0.0, 0.0)
    for prompt in prompts:
        for state in stream.seen(vlm, prompt):
            value = float(state.abs().max())
            token = state[state.abs().amax(1).argmax()]
            found = max(found, (value, float(value**2 / token.square().sum())))
    return found
