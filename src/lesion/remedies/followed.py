"""A :class:`FollowedLayout`: where the first tokens are, in passes that somebody else runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lesion.models.layout import TokenLayout
from lesion.models.tokens import FIRST, TEXT
from lesion.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    import torch


class FollowedLayout(TokenLayout):
    """Reads what the decoder is called with: the attention mask, and how much its cache holds already. Some models make masks
    of four dimensions before they call it; what the model itself was given is read then.

    Tokens are told apart into the first one and all others. A row's first token is the first that its attention mask shows;
    rows are padded on either side.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: torch.Tensor | None = None
        self._given: Any = None

    def give(self, mask: Any) -> None:
        """The model is about to be called with this attention mask; None where its pass is over."""
        self._given = mask

    def see(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The decoder is about to be called with this."""
        import torch

        given = kwargs.get("inputs_embeds")
        given = given if given is not None else kwargs.get("input_ids", args[0] if args else None)
        if given is None:
            self._first = None
            return
        rows, tokens = given.shape[:2]
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        before = int(cache.get_seq_length()) if cache is not None else 0
        shown = torch.ones(rows, before + tokens, dtype=torch.bool, device=given.device)
        mask = next((m for m in (mask, self._given) if isinstance(m, torch.Tensor) and m.shape[:-1] == (rows,)), None)
        if mask is not None:
            shown[:, : mask.shape[1]] = mask.bool()[:, : before + tokens]
        place = torch.arange(shown.shape[1], device=given.device)
        self._first = (place == shown.int().argmax(1, keepdim=True))[:, before:]

    def classes(self, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        classes = torch.full(shape, TEXT)
        if self._first is not None and self._first.numel() == classes.numel():
            classes[self._first.reshape(shape).cpu()] = FIRST
        return classes


@contextmanager
def followed(vlm: VisionLanguageModel) -> Iterator[FollowedLayout]:
    """The layout of whatever pass runs while the context lasts."""
    layout = FollowedLayout()
    decoder = vlm.model.get_submodule(vlm.structure.decoder)

    def given(_: Any, args: Any, kwargs: Any) -> None:
        layout.give(kwargs.get("attention_mask"))

    def before(_: Any, args: Any, kwargs: Any) -> None:
        layout.see(args, kwargs)

    with ExitStack() as stack:
        for module, hook in ((vlm.model, given), (decoder, before)):
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        stack.callback(vlm.model.register_forward_hook(lambda *_: layout.give(None), always_call=True).remove)
        yield layout
