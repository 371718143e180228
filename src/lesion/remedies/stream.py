"""The residual stream of a language model: what writes into it, what reads it, and that nothing else touches it.

Known is one make, Llama's: layers that add what attention and a feed-forward network write, each of which reads the stream
through an RMS norm that has a weight and no bias, by plain linear layers. A model with a weight beside these is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError
from lesion.models.inputs import Answer, Prompt
from lesion.models.trunk import DecoderLayers
from lesion.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    import torch
    from torch import nn

BRANCHES = (
    ("input_layernorm", "self_attn", ("q_proj", "k_proj", "v_proj"), "o_proj"),
    ("post_attention_layernorm", "mlp", ("gate_proj", "up_proj"), "down_proj"),
)
"""Of each layer: a norm, the block behind it, which of the block's linear layers read the stream, and which one writes."""
OPTIONAL = ("gate_proj",)
"""What a feed-forward network can be without."""
INNER = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
"""Weights of a layer that act on queries and keys, and not on the stream."""
INJECTED = "deepstack"
"""In the name of what adds images to the stream between layers."""


@dataclass(frozen=True)
class Stream:
    """What touches a residual stream.

    Attributes:
        width: Its channels.
        embedding: What tokens put into it.
        readers: Each norm, with the linear layers that read the stream through it.
        writers: Linear layers whose outputs are added to it, or begin it.
        connector: Path and module of the one of them that puts images into it; None in a model that reads text alone.
        head: The output head, which is one of the readers.
        layers: What is called with it.
    """

    width: int
    embedding: nn.Embedding
    readers: Sequence[tuple[nn.Module, Sequence[nn.Linear]]]
    writers: Sequence[nn.Linear]
    connector: tuple[str, nn.Linear] | None
    head: nn.Linear
    layers: DecoderLayers

    @classmethod
    def of(cls, vlm: VisionLanguageModel) -> Stream:
        """Reads a model; it is left as it was.

        Raises:
            ModelError: It is built otherwise, or has weights that are quantised or not in memory.
        """
        layers = DecoderLayers(None if vlm.is_encoder_decoder else vlm.model.get_submodule(vlm.structure.generator))
        if not len(layers):
            raise ModelError(
                "the layers of the language model are not called one after the other from one list; the residual stream cannot "
                "be turned"
            )
        find = _Modules(vlm)
        stem = ".".join(part for part in (vlm.structure.generator, layers.path.rpartition(".")[0]) if part)
        embedding = find.embedding()
        readers, writers = [], []
        for layer in range(len(layers)):
            for norm, block, reading, writing in BRANCHES:
                path = f"{stem}.layers.{layer}"
                there = [f"{path}.{block}.{name}" for name in reading]
                there = [reader for reader in there if reader in find or not reader.endswith(OPTIONAL)]
                readers.append((find.norm(f"{path}.{norm}"), [find.linear(reader, fan_in=find.width) for reader in there]))
                writers.append(find.linear(f"{path}.{block}.{writing}", fan_out=find.width))
        head = find.linear(find.path(vlm.model.get_output_embeddings()), fan_in=find.width)
        readers.append((find.norm(f"{stem}.norm"), [head]))
        connector = find.connector()
        writers += [] if connector is None else [connector[1]]
        stream = cls(find.width, embedding, readers, writers, connector, head, layers)
        find.check_complete(stream, [f"{stem}.layers.{i}.{name}" for i in range(len(layers)) for name in INNER])
        return stream

    @contextmanager
    def entering(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """While the context lasts, what tokens and images put into the stream, ``[..., width]``, is changed by a function."""
        sources: list[Any] = [self.embedding, *([] if self.connector is None else [self.connector[1]])]
        with ExitStack() as stack:
            for source in sources:
                stack.callback(source.register_forward_hook(lambda _, __, output: change(output)).remove)
            yield

    def seen(self, vlm: VisionLanguageModel, prompt: Prompt) -> list[torch.Tensor]:
        """What each layer is called with on a prompt, float32 ``[tokens, width]`` each."""
        end = Answer((*vlm.eos, vlm.pad)[:1], "")
        with vlm.prepared(), self.layers.watched() as seen:
            vlm.answer_log_probs(vlm.embed([prompt]), [end])
        return [passes[0][0].float() for passes in seen.values()]


class _Modules:
    """A model's modules, each given out after a look whether it is of the make that is expected."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._modules: Mapping[str, Any] = dict(vlm.model.named_modules())
        self.width: int = vlm.model.get_input_embeddings().weight.shape[-1]

    def __contains__(self, path: str) -> bool:
        return path in self._modules

    def path(self, module: Any) -> str:
        """Where a module is."""
        return next((path for path, other in self._modules.items() if other is module), "the output head")

    def embedding(self) -> nn.Embedding:
        """What tokens are looked up in."""
        from torch import nn

        embedding: Any = self._vlm.model.get_input_embeddings()
        # Of a subclass nobody knows what it does to what it looks up.
        if type(embedding) is not nn.Embedding or embedding.max_norm is not None or not _here(embedding.weight):
            raise ModelError(f"{self.path(embedding)} is no plain embedding in memory; the residual stream cannot be turned")
        return embedding

    def linear(self, path: str, fan_in: int | None = None, fan_out: int | None = None) -> nn.Linear:
        """A plain linear layer."""
        from torch import nn

        module: Any = self._modules.get(path)
        plain = type(module) is nn.Linear and _here(module.weight)
        if not plain or fan_in not in (None, module.in_features) or fan_out not in (None, module.out_features):
            raise ModelError(
                f"{path} is missing, or no plain linear layer in memory between {self.width} channels and others; the residual "
                "stream cannot be turned"
            )
        return module

    def norm(self, path: str) -> nn.Module:
        """A norm that divides by the root mean square and multiplies by its weight; it is asked, since names say little."""
        import torch

        module: Any = self._modules.get(path)
        own = {} if module is None else dict(module.named_parameters())
        if module is not None and own.keys() == {"weight"} and own["weight"].shape == (self.width,) and _here(own["weight"]):
            weight = own["weight"].detach()
            # Large, so that the epsilon is lost, and with a mean.
            x = 100 * (torch.randn(4, self.width, generator=torch.Generator().manual_seed(0)) + 1)
            with torch.no_grad():
                found = module(x.to(weight)).float().cpu()
            expected = weight.float().cpu() * x * x.square().mean(-1, keepdim=True).rsqrt()
            if _alike(found, expected, weight.dtype):
                return module
        raise ModelError(f"{path} is missing, or no RMS norm with a weight alone; the residual stream cannot be turned")

    def connector(self) -> tuple[str, nn.Linear] | None:
        """The last layer before the language model of what images become."""
        structure = self._vlm.structure
        if structure.vision is None:
            return None
        own = [path for path, module in self._modules.items() if next(module.parameters(recurse=False), None) is not None]
        own = [path for path in own if structure.component_of(path) == "connector"]
        if not own or any(INJECTED in path for path in own):
            raise ModelError(
                f"{own[-1] if own else 'an unknown module'} adds images to the residual stream; one linear layer that does was "
                "expected, and the stream cannot be turned"
            )
        return own[-1], self.linear(own[-1], fan_out=self.width)

    def check_complete(self, stream: Stream, inner: Sequence[str]) -> None:
        """Whether the language model has no weight beside those of a stream and some that do not touch it."""
        modules = [stream.embedding, *stream.writers, *(m for norm, readers in stream.readers for m in (norm, *readers))]
        known = {id(weight) for module in modules for weight in module.parameters()}
        for name, weight in self._vlm.model.named_parameters():
            apart = self._vlm.structure.component_of(name) in ("vision", "qformer", "connector")
            if id(weight) not in known and name not in inner and not apart:
                raise ModelError(f"{name} is no weight of layers like Llama's; the residual stream cannot be turned")


def check_entrance(
    vlm: VisionLanguageModel, stream: Stream, prompt: Prompt, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Whether all that begins the stream comes from where it seems to: with that changed, all of it is.

    Args:
        vlm: The model; it is left as it was.
        stream: Its own.
        prompt: With an image where it reads images.
        change: A function of ``[..., width]`` that keeps lengths.

    Raises:
        ModelError: It comes from elsewhere too.
    """
    before = stream.seen(vlm, prompt)[0]
    with stream.entering(change):
        after = stream.seen(vlm, prompt)[0]
    if not _alike(after, change(before), vlm.model.dtype):
        where = "" if stream.connector is None else f" and of {stream.connector[0]}"
        raise ModelError(f"the residual stream begins with more than the outputs of the embedding{where}, and cannot be turned")


def _here(weight: torch.Tensor) -> bool:
    return weight.is_floating_point() and not weight.is_meta


def _alike(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two ways to compute the same came out the same, but for rounding in a dtype."""
    import torch

    return float((found - expected).abs().max()) <= 16 * torch.finfo(dtype).eps * float(expected.abs().max())
