"""Interventions applied: what becomes of a neuron's value, in prefill and in every decoding step.

:func:`mask` applies an :class:`~lesion.hooks.intervention.Intervention` to a set of neurons by hooks on the model's own
modules; nothing of the model is replaced or edited.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.sites import Site
from lesion.hooks.attach import SiteHook, attached
from lesion.hooks.intervention import POSITIONS, Intervention, Statistics, Where, get_intervention
from lesion.models.experts import Routed
from lesion.models.layout import TokenLayout

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def mask(
    model: nn.Module,
    neurons: NeuronSet | Sequence[NeuronSet],
    intervention: str | Intervention = "zero",
    statistics: Statistics | None = None,
    layout: TokenLayout | None = None,
) -> Iterator[None]:
    """Intervenes on neurons while the context lasts.

    Contexts may be left in any order and by any thread. Hooks are the model's and not a thread's: what one thread masks is
    masked in every thread's passes, and a pass that is under way when a context is entered or left is masked in part. To try
    several masks at once, give each row a set of its own.

    Args:
        model: The model whose modules the sites name.
        neurons: One set for every row of a batch; or a sequence of sets, one a row, for as many experiments in one
            batch as it has rows. A batch with another number of rows is then an error.
        intervention: What becomes of their values.
        statistics: Those that the intervention needs.
        layout: The classes of the tokens, for interventions that depend on them; and which of the rows a pass is over, where
            some are left out.

    Raises:
        NeuronSetError: The model lacks a module of the set, or a module's width is not the site's; or, when a
            per-sample mask is used, the batch has another number of rows than there are sets.
        OptionError: An unknown intervention, statistics missing for a masked site, or one that is not for these sites.
    """
    act = get_intervention(intervention)
    shared = isinstance(neurons, NeuronSet)
    sets = [neurons] if isinstance(neurons, NeuronSet) else list(neurons)
    touched = sorted({site for members in sets for site in members.sites}, key=lambda s: s.order)
    act.check(touched)
    paths = {path for path, _ in model.named_modules()}
    hooks: list[tuple[Site, SiteHook]] = []
    for site in touched:
        if site.path not in paths:
            raise NeuronSetError(f"the model has no module {site.path!r}; is the set from another model?")
        if act.layers is None or site.layer in act.layers:
            channels = np.unique(np.concatenate([members.indices(site) for members in sets]))
            applied = _Applied(act, site, channels, statistics or {}, layout)
            hooks.append((site, applied.to_all if shared else _PerRow(applied, sets, layout)))
    with attached(model, hooks):
        yield


class _Applied:
    """An intervention at one site."""

    def __init__(
        self, act: Intervention, site: Site, neurons: np.ndarray, statistics: Statistics, layout: TokenLayout | None
    ) -> None:
        import torch

        self.act, self.site, self._layout = act, site, layout
        self.channels = torch.from_numpy(site.channels(neurons))  # in the module's tensor
        self._own = site.channels(neurons) - site.start  # in the site
        values = {name: _statistic(act, site, name, statistics)[..., self._own] for name in act.needs}
        self._statistics = {name: torch.from_numpy(value) for name, value in values.items()}

    def new(self, x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
        """The new values for some values of the site's channels, ``[..., members]``."""
        import torch

        for name, value in self._statistics.items():
            self._statistics[name] = value.to(device=x.device, dtype=x.dtype)

        def classes() -> torch.Tensor:
            if self._layout is None:
                raise OptionError(f"{self.act.id!r} needs the layout of the tokens; found none")
            if routed is None:
                return self._layout.classes(tuple(x.shape[:-1])).to(x.device)
            return self._layout.classes((routed.total,)).to(x.device)[routed.tokens]

        value = self.act.value(x, Where(self.site, self._own, self._statistics, classes))
        new = torch.as_tensor(value, dtype=x.dtype, device=x.device).expand_as(x)
        only = POSITIONS[self.act.positions]
        return new if only is None else torch.where((classes() == only).unsqueeze(-1), new, x)

    def to_all(self, x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
        """Replaces the same neurons in every row."""
        self.check_width(x)
        self.channels = self.channels.to(x.device)
        return x.index_copy(-1, self.channels, self.new(x.index_select(-1, self.channels), routed))

    def check_width(self, x: torch.Tensor) -> None:
        if x.shape[-1] != self.site.whole:
            raise NeuronSetError(f"{self.site.key} should have {self.site.whole} channels; its module gives {x.shape[-1]}")


class _PerRow:
    """Replaces each row's own neurons."""

    def __init__(self, applied: _Applied, sets: Sequence[NeuronSet], layout: TokenLayout | None) -> None:
        import torch

        self._applied, self._layout, site = applied, layout, applied.site
        members = applied.channels.numpy()
        self._masked = torch.stack([torch.from_numpy(np.isin(members, site.channels(s.indices(site)))) for s in sets])

    def _rows(self) -> torch.Tensor:
        """Which of the site's masked channels each row of this pass has masked, ``[rows, members]``."""
        return self._masked if self._layout is None else self._masked[self._layout.rows]

    def __call__(self, x: torch.Tensor, routed: Routed | None) -> torch.Tensor:
        import torch

        applied, site = self._applied, self._applied.site
        applied.check_width(x)
        self._masked, applied.channels = self._masked.to(x.device), applied.channels.to(x.device)
        masked = self._rows()
        rows = len(masked)
        if routed is not None and routed.total % rows == 0:
            where = masked[routed.rows(rows)]  # [routed, members]
        elif x.ndim == 2 and site.component == "language" and len(x) % rows == 0:
            # The tokens of all rows one after the other.
            where = masked.repeat_interleave(len(x) // rows, 0)
        elif x.ndim >= 2 and x.shape[0] == rows:
            where = masked.view(rows, *[1] * (x.ndim - 2), -1)
        else:
            raise NeuronSetError(
                f"per-sample masks at {site.path}: {rows} sets for an activation of shape {tuple(x.shape)}; "
                "expected one set for each row of the batch"
            )
        part = x.index_select(-1, applied.channels)
        return x.index_copy(-1, applied.channels, torch.where(where, applied.new(part, routed), part))


def _statistic(act: Intervention, site: Site, name: str, statistics: Statistics) -> np.ndarray:
    values = statistics.get(name, {}).get(site.key)
    if values is None:
        raise OptionError(f"{act.id!r} needs the {name} of {site.key}; it was not measured")
    return values
