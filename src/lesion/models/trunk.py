"""The :class:`Trunk`: what the intact model computes on prompts and reference answers, kept for masks that touch only a part.

Below the first layer that a mask touches nothing differs from the intact model, so a masked pass may start there; and an answer
that begins as the intact one did needs no second pass over the prompt to be judged by the intact model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lesion.models.opened import Opened
from lesion.models.rows import KeyValues

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Intact:
    """The intact model on one sample's prompt and reference answer.

    Attributes:
        log_probs: Before each token of the reference, float32 ``[tokens, vocabulary]``.
        residual: What each layer was called with, ``[tokens, width]`` a layer; empty where that is not known.
        key_values: Of every layer, for the tokens of prompt and reference; empty where that is not known.
    """

    log_probs: torch.Tensor
    residual: Sequence[torch.Tensor] = ()
    key_values: KeyValues = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(t.nbytes for t in (self.log_probs, *self.residual, *(x for pair in self.key_values for x in pair)))

    def without_states(self) -> Intact:
        """The log-probabilities alone."""
        return Intact(self.log_probs)


@dataclass(frozen=True)
class Entry:
    """Where a pass over some rows may start.

    Attributes:
        layer: The first layer that is run.
        rows: For each row, the intact model on its prompt and reference.
    """

    layer: int
    rows: Sequence[Intact]

    def residual(self, row: int, tokens: slice) -> torch.Tensor:
        """What the layer is called with, ``[tokens, width]``."""
        return self.rows[row].residual[self.layer][tokens]

    def skipped(self, row: int, tokens: slice) -> KeyValues:
        """Keys and values of the layers that are not run."""
        return [(keys[:, tokens], values[:, tokens]) for keys, values in self.rows[row].key_values[: self.layer]]


@dataclass(frozen=True)
class Part:
    """Rows of a batch that read their prompts and references together.

    Attributes:
        rows: Their numbers.
        entry: From where on the model differs from the intact one; None to run all of it.
        opened: Where they have read already: what they go on from, which is used up.
    """

    rows: range
    entry: Entry | None = None
    opened: Opened | None = None


class DecoderLayers:
    """The layers of a language model, first to last; none where they are not called one after the other from one list.

    Args:
        generator: The language model with its head; None for no layers.
    """

    def __init__(self, generator: nn.Module | None = None) -> None:
        import torch

        self.path, self._modules, self._tuples = "", [], False
        if generator is None:
            return
        count = getattr(generator.config.get_text_config(), "num_hidden_layers", None)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        lists = [
            (path, list(module)) for path, module in generator.named_modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == count and path.rpartition(".")[2] == "layers"
        ]  # fmt: skip
        if len(lists) == 1:
            self.path, self._modules = lists[0]

    def __len__(self) -> int:
        return len(self._modules)

    @contextmanager
    def watched(self) -> Iterator[dict[int, list[torch.Tensor]]]:
        """What each layer is called with in the next passes, ``[rows, tokens, width]`` each."""
        seen: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(self))}

        def watch(number: int) -> Any:
            def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
                seen[number].append(args[0] if args else kwargs["hidden_states"])

            return before

        def after(_: Any, __: Any, output: Any) -> None:
            self._tuples = isinstance(output, tuple)

        with ExitStack() as stack:
            for i, module in enumerate(self._modules):
                stack.callback(module.register_forward_pre_hook(watch(i), with_kwargs=True).remove)
            for module in self._modules[:1]:
                stack.callback(module.register_forward_hook(after).remove)
            yield seen

    @contextmanager
    def replaced(self, layer: int, token: int, channel: int, number: float) -> Iterator[None]:
        """One channel of what a layer is called with is a constant at one token of every row."""

        def put(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            new = (args[0] if args else kwargs["hidden_states"]).clone()
            new[:, token, channel] = number
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        handle = self._modules[layer].register_forward_pre_hook(put, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def norm_of(self, layer: int) -> str | None:
        """Path of the norm that a layer begins with; None where it has none by the name of its class."""
        named = ((name, module) for name, module in self._modules[layer].named_children())
        return next((f"{self.path}.{layer}.{name}" for name, m in named if "norm" in type(m).__name__.lower()), None)

    @contextmanager
    def entered(self, first: int, residual: torch.Tensor) -> Iterator[None]:
        """The layers before ``first`` hand on what they get, and ``first`` gets the residual stream that is given."""

        def hand_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            return (hidden_states,) if self._tuples else hidden_states

        def enter(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            given = args[0] if args else kwargs["hidden_states"]
            new = residual.to(given)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        handle = self._modules[first].register_forward_pre_hook(enter, with_kwargs=True)
        own = [(m, m.__dict__.get("forward")) for m in self._modules[:first]]
        try:
            for module, _ in own:
                module.forward = hand_on
            yield
        finally:
            handle.remove()
            for module, forward in own:
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward
