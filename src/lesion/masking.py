"""Masking: replaces the values of chosen neurons at every token, in prefill and in every decoding step.

Masks are :mod:`lesion.hooks` on the model's own modules. Nothing of the model is replaced or edited.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lesion.errors import NeuronSetError, OptionError
from lesion.hooks import Act, attached
from lesion.models.experts import Routed
from lesion.neurons import NeuronSet
from lesion.sites import Site

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

Means = Mapping[str, "np.ndarray"]
"""Site key -> the mean value of each of its neurons, ``[width]``; or one for each class of tokens, ``[classes, width]``."""
VALUES = ("zero", "mean", "class-mean")
CLASSES = ("first", "image", "text")
"""Classes of the language model's tokens: the first one, the image's, all others. The first counts as first only."""
_TEXT = CLASSES.index("text")


class Layout:
    """Which class each token of the language model's passes has, for masks that depend on it.

    Whoever runs the model says before each pass what is in it; a pass over one token is a decoding step, hence text.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[torch.Tensor, int]] = []

    def expect(self, prompts: Sequence[torch.Tensor], answers: Sequence[int] | None = None) -> None:
        """The next passes are over these rows, padded on the left.

        Args:
            prompts: For each row, the class of each of its prompt's tokens, int64 ``[tokens]``.
            answers: For each row, how many tokens of an answer come after it; None for none.
        """
        self._rows = list(zip(prompts, answers or [0] * len(prompts), strict=True))

    def classes(self, x: torch.Tensor) -> torch.Tensor:
        """The classes of an activation's tokens, int64 ``[rows, tokens]``; padding is given any.

        Some modules see the tokens of all rows one after the other: then ``[rows * tokens]``.

        Raises:
            NeuronSetError: The activation is not that of the expected rows.
        """
        import torch

        rows, given = len(self._rows), tuple(x.shape[:-1])
        tokens = given[1] if len(given) == 2 else given[0] // max(rows, 1)
        found = torch.full((rows, tokens), _TEXT)
        if tokens != 1:
            longest = max((len(prompt) + answer for prompt, answer in self._rows), default=0)
            if given not in ((rows, longest), (rows * longest,)):
                raise NeuronSetError(f"class means for {rows} rows of {longest} tokens; found {given}")
            for row, (prompt, answer) in zip(found, self._rows, strict=True):
                end = longest - answer
                row[end - len(prompt) : end] = prompt
        return found.to(x.device).view(given)


@contextmanager
def mask(
    model: nn.Module,
    neurons: NeuronSet | Sequence[NeuronSet],
    value: str = "zero",
    means: Means | None = None,
    layout: Layout | None = None,
) -> Iterator[None]:
    """Masks neurons while the context lasts.

    Args:
        model: The model whose modules the sites name.
        neurons: One set for every row of a batch; or a sequence of sets, one a row, for as many experiments in one
            batch as it has rows. A batch with another number of rows is then an error.
        value: ``"zero"``, or ``"mean"`` for the neurons' mean values (arXiv 2402.17762 finds that zero destroys where
            the mean does not), or ``"class-mean"`` for their mean values over tokens of the same class.
        means: The mean values that ``"mean"`` needs; for ``"class-mean"``, language sites have one for each class.
        layout: The classes of the tokens, for ``"class-mean"``.

    Raises:
        NeuronSetError: The model lacks a module of the set, or a module's width is not the site's; or, when a
            per-sample mask is used, the batch has another number of rows than there are sets.
        OptionError: An unknown ``value``, or means missing for a masked site.
    """
    if value not in VALUES:
        raise OptionError(f"mask value {value!r} is unknown; expected one of {', '.join(VALUES)}")
    rows = None if isinstance(neurons, NeuronSet) else list(neurons)
    sets = [neurons] if isinstance(neurons, NeuronSet) else list(neurons)
    touched = sorted({site for members in sets for site in members.sites}, key=lambda s: s.order)
    paths = {path for path, _ in model.named_modules()}
    acts: list[tuple[Site, Act]] = []
    for site in touched:
        if site.path not in paths:
            raise NeuronSetError(f"the model has no module {site.path!r}; is the set from another model?")
        fill = _fill(site, value, means)
        acts.append((site, _shared(site, sets[0], fill, layout) if rows is None else _per_row(site, rows, fill, layout)))
    with attached(model, acts):
        yield


def _fill(site: Site, value: str, means: Means | None) -> np.ndarray | None:
    if value == "zero":
        return None
    if site.expert is not None:
        raise OptionError(f"mask value {value!r} is not for experts: few tokens reach {site.key}; use 'zero'")
    if means is None or site.key not in means:
        raise OptionError(f"mask value {value!r} needs the mean values of {site.key}; found none")
    return means[site.key]


def _by_token(values: torch.Tensor, x: torch.Tensor, layout: Layout | None) -> torch.Tensor:
    """What each token is given: the same for all, ``[members]``, or by its class, ``[rows, tokens, members]``."""
    values = values.to(x.dtype)
    if values.ndim == 1:
        return values
    if layout is None:
        raise OptionError("class means need the layout of the tokens; found none")
    return values[layout.classes(x)]


def _shared(site: Site, members: NeuronSet, fill: np.ndarray | None, layout: Layout | None) -> Act:
    """Replaces the same neurons in every row."""
    import torch

    own = torch.from_numpy(members.indices(site))
    indices = own + site.offset
    values = None if fill is None else torch.from_numpy(fill)[..., own]

    def replace(x: torch.Tensor, _: Routed | None) -> torch.Tensor:
        nonlocal indices, values
        _check_width(site, x)
        indices = indices.to(x.device)
        if values is None:
            return x.index_fill(-1, indices, 0)
        values = values.to(device=x.device)
        return x.index_copy(-1, indices, _by_token(values, x, layout).expand(*x.shape[:-1], len(indices)))

    return replace


def _per_row(site: Site, rows: Sequence[NeuronSet], fill: np.ndarray | None, layout: Layout | None) -> Act:
    """Replaces each row's own neurons."""
    import torch

    masked = torch.zeros(len(rows), site.whole, dtype=torch.bool)
    for row, members in enumerate(rows):
        masked[row, torch.from_numpy(members.indices(site)) + site.offset] = True
    values = torch.zeros(site.width) if fill is None else torch.from_numpy(fill)
    after = site.whole - site.offset - site.width
    values = torch.nn.functional.pad(values, (site.offset, after))

    def replace(x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
        nonlocal masked, values
        _check_width(site, x)
        masked, values = masked.to(x.device), values.to(x.device)
        if routed is not None and routed.total % len(rows) == 0:
            return x.masked_fill(masked[routed.rows(len(rows))], 0)
        if x.ndim == 2 and site.component == "language" and len(x) % len(rows) == 0:
            # The tokens of all rows one after the other.
            return torch.where(masked.repeat_interleave(len(x) // len(rows), 0), _by_token(values, x, layout), x)
        if x.ndim < 2 or x.shape[0] != len(rows):
            raise NeuronSetError(
                f"per-sample masks at {site.path}: {len(rows)} sets for an activation of shape {tuple(x.shape)}; "
                "expected one set for each row of the batch"
            )
        where = masked.view(len(rows), *[1] * (x.ndim - 2), site.whole)
        return torch.where(where, _by_token(values, x, layout), x)

    return replace


def _check_width(site: Site, x: torch.Tensor) -> None:
    if x.shape[-1] != site.whole:
        raise NeuronSetError(f"{site.key} should have {site.whole} neurons; its module gives {x.shape[-1]}")
