"""Scoring: one forward and one backward pass a batch give the importance of every site, for every scorer at once.

The perturbation scorer alone needs another pass: one forward of twice the rows, without a backward.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lesion.errors import DataError, ModelError
from lesion.importance import Importance
from lesion.models import experts, feedforward
from lesion.scorers import SCORERS, Pass, ScoreOptions, get_scorer
from lesion.sites import Site, Sites
from lesion.watching import frozen, read, watch

if TYPE_CHECKING:
    import torch
    from torch import nn

    _Rows = dict[tuple[str, str], torch.Tensor]
    """(scorer, site key) -> one number a row and neuron, ``[rows, width]``."""

FP16_LOSS_SCALE = 2.0**12
"""Gradients below 6e-8 vanish in float16; the loss is multiplied by this before the backward pass, and they are divided."""


class ScoringBatch(Protocol):
    """What :func:`score` needs of a batch; its length is the number of samples."""

    def __len__(self) -> int: ...

    def losses(self) -> torch.Tensor:
        """Runs the model; per-sample losses ``[rows]``, with the graph."""
        ...

    def tokens(self, site: Site, length: int, positions: str) -> torch.Tensor:
        """Which of a site's tokens count, bool ``[rows, length]``."""
        ...

    def run_perturbed(self, noise: float, seed: int) -> None:
        """Runs the model on every row twice: all rows as they are, then all of them with noise."""
        ...


def out_norms(model: nn.Module, site: Site) -> torch.Tensor:
    """How much a neuron writes for each unit of its activation.

    Returns:
        float32 ``[width]``: the L2 norm of its column in the out-projection; 1 for ``down`` neurons, which are what is
        written.
    """
    import torch

    if site.writes_through is None:
        return torch.ones(site.width)
    module = model.get_submodule(site.writes_through)
    return feedforward.column_norms(module) if site.expert is None else experts.column_norms(module, site.expert)


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
    sums = _Sums(model, sites, [s.name for s in chosen if s.reduce is not None], options)
    if sums.names:
        with frozen(model):
            for batch in batches:
                rows = sums.add(batch)
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

    def __init__(self, model: nn.Module, sites: Sites, names: list[str], options: ScoreOptions) -> None:
        self.model, self.sites, self.names, self.options = model, sites, names, options
        self.samples = self.left_out = 0
        self._sums: dict[tuple[str, str], torch.Tensor] = {}
        self._hits: dict[tuple[str, str], torch.Tensor] = {}
        self._norms: dict[str, torch.Tensor] = {}

    def add(self, batch: ScoringBatch) -> int:
        """Adds a batch; returns its number of rows."""
        import torch

        rows: _Rows = {}
        usable: torch.Tensor | None = None
        if any(SCORERS[name].needs == "gradient" for name in self.names):
            usable = self._gradient_pass(batch, rows)
        if any(SCORERS[name].needs == "perturbed" for name in self.names):
            self._perturbed_pass(batch, rows)
        if usable is None:
            usable = torch.ones(len(next(iter(rows.values()))), dtype=torch.bool)
        self.samples += int(usable.sum())
        self.left_out += int((~usable).sum())
        for (name, key), value in rows.items():
            value = torch.where(usable.to(value.device).unsqueeze(1), value, 0).to(_sum_dtype(value.device))
            rows[name, key] = value
            total = value.sum(0)
            self._sums[name, key] = self._sums[name, key] + total if (name, key) in self._sums else total
        self._count_hits(rows, usable)
        return len(usable)

    def _gradient_pass(self, batch: ScoringBatch, rows: _Rows) -> torch.Tensor:
        """One forward and one backward; returns which rows have a finite loss."""
        import torch

        scale = FP16_LOSS_SCALE if getattr(self.model, "dtype", None) == torch.float16 else 1.0

        def see(site: Site, a: torch.Tensor, g: torch.Tensor) -> None:
            self._reduce(batch, site, "gradient", a.float(), g.float() / scale, rows)

        with watch(self.model, self.sites, see), torch.enable_grad():
            losses = batch.losses()
            usable = torch.isfinite(losses.detach())
            if usable.any():
                (losses[usable].float().sum() * scale).backward()
        return usable

    def _perturbed_pass(self, batch: ScoringBatch, rows: _Rows) -> None:
        """One forward of twice the rows: the second half has the noise."""

        def see(site: Site, a: torch.Tensor) -> None:
            # Some vision parts lay the patches of all images one after the other into a single row.
            intact, noisy = a.float().chunk(2, dim=1 if a.shape[0] == 1 else 0)
            self._reduce(batch, site, "perturbed", intact, noisy, rows)

        with read(self.model, self.sites, see):
            batch.run_perturbed(self.options.noise, self.options.seed)

    def _reduce(self, batch: ScoringBatch, site: Site, needs: Pass, a: torch.Tensor, other: torch.Tensor, rows: _Rows) -> None:
        """One number a row and neuron, for every scorer of a pass."""
        if a.ndim != 3 or a.shape[0] != len(batch):
            if len(batch) != 1:
                raise ModelError(
                    f"{site.path} gives {tuple(a.shape)}; expected [{len(batch)}, tokens, width] to score by sample"
                )
            # One sample: whatever comes before the width (tiles, patches, tokens) is its tokens.
            a, other = a.reshape(1, -1, site.width), other.reshape(1, -1, site.width)
        for name in self.names:
            scorer = SCORERS[name]
            if scorer.needs != needs or scorer.reduce is None:
                continue
            tokens = batch.tokens(site, a.shape[1], scorer.positions or self.options.positions).to(a.device)
            value = scorer.reduce(a, other, tokens, self.options)
            if scorer.by_weight:
                value = value * self._norm(site).to(value.device)
            key = name, site.key
            rows[key] = rows[key] + value if key in rows else value

    def _norm(self, site: Site) -> torch.Tensor:
        if site.key not in self._norms:
            self._norms[site.key] = out_norms(self.model, site)
        return self._norms[site.key]

    def _count_hits(self, rows: _Rows, usable: torch.Tensor) -> None:
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
            # Experts without a token are not among the members, and count as 0.
            count = min(values.shape[1], max(1, math.ceil(self.options.top * self._size(members[0]))))
            hits = torch.zeros(values.shape[1], dtype=torch.long, device=device)
            hits.index_add_(0, values.topk(count, dim=1).indices.flatten(), torch.ones((), device=device).long().expand(
                len(values) * count))  # fmt: skip
            for site, part in zip(members, hits.split([s.width for s in members]), strict=True):
                key = name, site.key
                self._hits[key] = self._hits[key] + part if key in self._hits else part

    def _size(self, member: Site) -> int:
        """Number of reachable neurons of a site's component and role."""
        kind = member.component, member.role
        return sum(s.width for s in self.sites if s.reachable and (s.component, s.role) == kind)

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
