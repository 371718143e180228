"""Scoring: one forward and one backward pass a batch give the importance of every site, for every scorer at once."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lesion.errors import DataError, ModelError
from lesion.importance import Importance
from lesion.scorers import SCORERS, VALUE, ScoreOptions, get_scorer
from lesion.sites import Site, Sites

if TYPE_CHECKING:
    import torch
    from torch import nn

    See = Callable[[Site, torch.Tensor, torch.Tensor], None]

FP16_LOSS_SCALE = 2.0**12
"""Gradients below 6e-8 vanish in float16; the loss is multiplied by this before the backward pass, and they are divided."""


class ScoringBatch(Protocol):
    """What :func:`score` needs of a batch."""

    def losses(self) -> torch.Tensor:
        """Runs the model; per-sample losses ``[rows]``, with the graph."""
        ...

    def tokens(self, site: Site, length: int, positions: str) -> torch.Tensor:
        """Which of a site's tokens count, bool ``[rows, length]``."""
        ...


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient and dropout is off while the context lasts; then everything is as it was."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        for module in training:
            module.training = False
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def watch(model: nn.Module, sites: Iterable[Site], see: See) -> Iterator[None]:
    """Calls ``see(site, activation, gradient)`` during the backward pass, for every site that a gradient reaches.

    With every weight frozen nothing asks for a gradient, so the first site on each path is made a leaf of the graph;
    what comes before it (the embeddings, the vision tower when no vision site is watched) is not differentiated.

    Raises:
        ModelError: The model has no module of a site's name.
    """
    modules: dict[str, Any] = dict(model.named_modules())

    def tap(site: Site, x: torch.Tensor) -> torch.Tensor:
        if not x.requires_grad:
            x = x.detach().requires_grad_(True)
        kept = x.detach()
        x.register_hook(lambda gradient: see(site, kept, gradient.detach()))
        return x

    def on_input(site: Site) -> Any:
        return lambda _, args: (tap(site, args[0]), *args[1:])

    def on_output(site: Site) -> Any:
        return lambda _, args, output: tap(site, output)

    with ExitStack() as hooks:
        for site in sites:
            if site.path not in modules:
                raise ModelError(f"the model has no module {site.path!r}")
            module = modules[site.path]
            register = module.register_forward_pre_hook if site.reads_input else module.register_forward_hook
            hooks.callback(register(on_input(site) if site.reads_input else on_output(site)).remove)
        yield


def score(
    model: nn.Module,
    sites: Sites,
    batches: Iterable[ScoringBatch],
    scorers: Sequence[str] = ("can", "activation", "gradient"),
    options: ScoreOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Importance]:
    """Scores every neuron of the sites.

    ``I = mean over samples of aggregate over tokens of |g|^alpha |a|`` for CAN (arXiv 2512.00918), and likewise for the
    other scorers. Losses of a batch are summed, so that a sample's gradient does not depend on the others in its batch;
    sums over samples are float64 on the site's own device (float32 where it has none).

    Args:
        model: Frozen and in evaluation mode while this runs, then as it was.
        sites: Where to score; reachable and unreachable ones.
        batches: See :class:`ScoringBatch`; for a :class:`~lesion.models.vlm.VisionLanguageModel`, its ``batches``.
        scorers: Names in :data:`lesion.scorers.SCORERS`.
        options: Options of the scorers.
        progress: Called with the number of samples after each batch.

    Returns:
        The importances by scorer name. A sample whose loss is not finite has no gradient worth the name and is left out,
        so ``importance.samples`` can be less than what went in. A site that no gradient reached has no entry in ``sums``.

    Raises:
        OptionError: An unknown scorer.
        DataError: No sample has a finite loss.
    """
    options = options or ScoreOptions()
    chosen = [get_scorer(name) for name in scorers]
    sums = _Sums(sites, [s.name for s in chosen if s.reduce is not None], options)
    if sums.names:
        with frozen(model):
            for batch in batches:
                rows = sums.add(model, batch)
                if progress is not None:
                    progress(rows)
        if not sums.samples:
            raise DataError(f"none of the {sums.left_out} samples has a finite loss; is the model's dtype too small?")
    found = sums.importances()
    for scorer in chosen:
        if scorer.reduce is None:
            found[scorer.name] = _random(sites, options.seed)
    return found


class _Sums:
    """Running sums on the sites' devices."""

    def __init__(self, sites: Sites, names: list[str], options: ScoreOptions) -> None:
        self.sites, self.names, self.options = sites, names, options
        self.samples = self.left_out = 0
        self._sums: dict[tuple[str, str], torch.Tensor] = {}
        self._hits: dict[tuple[str, str], torch.Tensor] = {}

    def add(self, model: nn.Module, batch: ScoringBatch) -> int:
        import torch

        rows: dict[tuple[str, str], torch.Tensor] = {}
        scale = FP16_LOSS_SCALE if getattr(model, "dtype", None) == torch.float16 else 1.0

        def see(site: Site, a: torch.Tensor, g: torch.Tensor) -> None:
            if a.ndim != 3:
                raise ModelError(f"{site.path} gives {tuple(a.shape)}; expected [rows, tokens, width] to score by sample")
            chosen = batch.tokens(site, a.shape[1], self.options.positions).to(a.device)
            everywhere = batch.tokens(site, a.shape[1], "all").to(a.device)
            a, g = a.float(), g.float() / scale
            for name in self.names:
                reduce = SCORERS[name].reduce
                assert reduce is not None
                value = reduce(a, g, everywhere if name == VALUE else chosen, self.options)
                key = name, site.key
                rows[key] = rows[key] + value if key in rows else value

        with watch(model, self.sites, see), torch.enable_grad():
            losses = batch.losses()
            usable = torch.isfinite(losses.detach())
            if usable.any():
                (losses[usable].float().sum() * scale).backward()
        self.samples += int(usable.sum())
        self.left_out += int((~usable).sum())
        for (name, key), value in rows.items():
            value = torch.where(usable.to(value.device).unsqueeze(1), value, 0).to(_sum_dtype(value.device))
            rows[name, key] = value
            total = value.sum(0)
            self._sums[name, key] = self._sums[name, key] + total if (name, key) in self._sums else total
        self._count_hits(rows, usable)
        return len(losses)

    def _count_hits(self, rows: dict[tuple[str, str], torch.Tensor], usable: torch.Tensor) -> None:
        """In which samples each neuron is among the top share of its component and role."""
        import torch

        groups: dict[tuple[str, str, str], list[Site]] = {}
        for name in self.names:
            for site in self.sites:
                if site.reachable and (name, site.key) in rows:
                    groups.setdefault((name, site.component, site.role), []).append(site)
        for (name, _, _), members in groups.items():
            device = rows[name, members[0].key].device
            values = torch.cat([rows[name, s.key].to(device) for s in members], dim=1)[usable.to(device)]
            count = max(1, math.ceil(self.options.top * values.shape[1]))
            hits = torch.zeros(values.shape[1], dtype=torch.long, device=device)
            hits.index_add_(0, values.topk(count, dim=1).indices.flatten(), torch.ones((), device=device).long().expand(
                len(values) * count))  # fmt: skip
            for site, part in zip(members, hits.split([s.width for s in members]), strict=True):
                key = name, site.key
                self._hits[key] = self._hits[key] + part if key in self._hits else part

    def importances(self) -> dict[str, Importance]:
        found = {}
        for name in self.names:
            scored = Importance(name, _used(name, self.options), self.sites, samples=self.samples)
            for site in self.sites:
                if (name, site.key) in self._sums:
                    scored.sums[site.key] = self._sums[name, site.key].cpu().double().numpy()
                if (name, site.key) in self._hits:
                    scored.hits[site.key] = self._hits[name, site.key].cpu().numpy()
            found[name] = scored
        return found


def _sum_dtype(device: torch.device) -> torch.dtype:
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def _used(name: str, options: ScoreOptions) -> dict[str, Any]:
    return {option: getattr(options, option) for option in SCORERS[name].uses}


def _random(sites: Sites, seed: int) -> Importance:
    """Numbers that depend on the seed and the site's name alone, so that they are the same in every process."""
    sums = {s.key: np.random.default_rng([seed, zlib.crc32(s.key.encode())]).random(s.width) for s in sites}
    return Importance("random", {"seed": seed}, sites, sums, samples=1)
