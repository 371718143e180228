"""Scoring: one forward and one backward pass a batch give the importance of every site, for most scorers at once.

Scorers that read the activation alone need no backward pass, and get none unless another one does. Others need passes of their
own (:data:`lesion.scoring.registry.Pass`): the noisy one, the linearised one, the one that sees the residual stream, a path.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.errors import DataError, ModelError, OptionError
from lesion.core.importance import Importance
from lesion.core.sites import Site, Sites
from lesion.hooks.capture import capture_activations
from lesion.hooks.relevance import linearised
from lesion.models.handle import frozen
from lesion.scoring.gradients import backward
from lesion.scoring.integrated_gradients import along_path
from lesion.scoring.options import ScoreOptions
from lesion.scoring.output_share import capture_with_stream
from lesion.scoring.scorers import SCORERS, Pass, get_scorer
from lesion.scoring.writers import out_weight

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lesion.scoring.registry import Pair, ScoringBatch

    _Rows = dict[tuple[str, str], torch.Tensor]
    """(scorer, site key) -> one number a row and neuron, ``[rows, width]``."""
    _See = Callable[[Site, Pair], None]


def out_norms(model: nn.Module, site: Site) -> torch.Tensor:
    """How much each channel writes for a unit of its activation.

    Returns:
        float32 ``[channels]``: the L2 norm of its column in the out-projection; 1 for ``down`` neurons, which are what is
        written.
    """
    import torch

    weight = out_weight(model, site)
    return torch.ones(site.width * site.group) if weight is None else weight.norm(dim=0)


def score(
    model: nn.Module,
    sites: Sites,
    batches: Iterable[ScoringBatch],
    scorers: str | Sequence[str] = ("can", "activation", "gradient"),
    options: ScoreOptions | None = None,
    progress: Callable[[int], None] | None = None,
    part: bool = False,
) -> dict[str, Importance]:
    """Scores every neuron of the sites.

    ``I = mean over samples of aggregate over tokens of |g|^alpha |a|`` for CAN (arXiv 2512.00918), and likewise for the
    other scorers. Losses of a batch are summed, so that a sample's gradient does not depend on the others in its batch;
    sums over samples are float64 on the site's own device (float32 where it has none). Only one thread at a time may score a
    model, and no other may run it meanwhile: the passes of all threads would be counted.

    Args:
        model: Frozen and in evaluation mode while this runs, then as it was.
        sites: Where to score; reachable and unreachable ones.
        batches: See :class:`lesion.scoring.registry.ScoringBatch`; for a
            :class:`~lesion.models.vlm.VisionLanguageModel`, its ``batches``.
        scorers: Names in :data:`lesion.scoring.scorers.SCORERS`, or one of them.
        options: Options of the scorers.
        progress: Called with the number of samples after each batch.
        part: These are some of several batches, whose importances will be merged: that they have no finite sample is no error.

    Returns:
        The importances by scorer name. A sample whose loss, or an activation or gradient at a site, is not finite is left out,
        so ``importance.samples`` can be less than what went in. A site that no gradient reached has no entry in ``sums``, and
        neither has one that a scorer does not know what to do with (:mod:`lesion.scoring.output_share`).

    Raises:
        OptionError: An unknown scorer, or one that scores none of the sites.
        ModelError: The linearised model is asked for, and a module on the way is of a make that it does not know.
        DataError: All samples were left out.
    """
    options = options or ScoreOptions()
    chosen = [get_scorer(name) for name in ([scorers] if isinstance(scorers, str) else scorers)]
    sums = _Sums(model, sites, [s.name for s in chosen if s.reduce is not None], options)
    if sums.names:
        with frozen(model):
            for batch in batches:
                rows = sums.add(batch)
                if progress is not None:
                    progress(rows)
        if sums.samples or not part:
            check_any(sums.samples, sums.left_out)
            sums.check()
    importances = sums.importances()
    for scorer in chosen:
        if scorer.reduce is None:
            importances[scorer.name] = _random(sites, options.seed)
    return importances


def check_any(samples: int, left_out: int) -> None:
    """Whether a sample was scored.

    Raises:
        DataError: All were left out.
    """
    if not samples:
        raise DataError(
            f"none of the {left_out} samples has a finite loss, activations and gradients; expected at least one: is "
            "the model's dtype too small?"
        )


class _Sums:
    """Running sums on the sites' devices."""

    def __init__(self, model: nn.Module, sites: Sites, names: list[str], options: ScoreOptions) -> None:
        self.model, self.sites, self.names, self.options = model, sites, names, options
        self.samples = self.left_out = 0
        passes: dict[str, Pass] = {name: SCORERS[name].pass_for(options) for name in names}
        # What a forward pass gives, a backward pass that is needed anyway gives too.
        shared: Pass = "gradient" if "gradient" in passes.values() else "forward"
        self._passes: dict[str, Pass] = {n: shared if p == "forward" else p for n, p in passes.items()}
        self._sums: dict[tuple[str, str], torch.Tensor] = {}
        self._hits: dict[tuple[str, str], torch.Tensor] = {}
        self._norms: dict[str, torch.Tensor] = {}
        self._called_again: set[str] = set()
        self._runs: dict[Pass, Callable[[ScoringBatch, _Rows], torch.Tensor | None]] = {
            "gradient": self._gradient_pass, "forward": self._forward_pass, "perturbed": self._perturbed_pass,
            "residual": self._residual_pass, "relevance": self._relevance_pass, "path": self._path_pass,
        }  # fmt: skip

    def check(self) -> None:
        """Whether each scorer had something to score.

        Raises:
            OptionError: One of those that look at the residual stream had not.
        """
        for name in self.names:
            if self._passes[name] == "residual" and not any(scorer == name for scorer, _ in self._sums):
                raise OptionError(
                    f"scorer {name!r} scores none of the {len(self.sites)} sites: they are in no layer with a residual stream; "
                    "choose another scorer or component"
                )

    def add(self, batch: ScoringBatch) -> int:
        """Adds a batch; returns its number of rows."""
        import torch

        rows: _Rows = {}
        usable = torch.ones(len(batch), dtype=torch.bool)
        for needs, run in self._runs.items():
            if needs in self._passes.values():
                finite = run(batch, rows)
                usable = usable if finite is None else usable & finite.cpu()
        for finite in _finite_rows(rows.values()):
            usable &= finite.cpu()
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
        return backward(self.model, self.sites, batch, self._reducer(batch, "gradient", rows))

    def _relevance_pass(self, batch: ScoringBatch, rows: _Rows) -> torch.Tensor:
        """The same through the linearised model, whose forward pass is the model's own."""
        see = self._reducer(batch, "relevance", rows)
        return backward(self.model, self.sites, batch, see, after=linearised(self.model))

    def _path_pass(self, batch: ScoringBatch, rows: _Rows) -> torch.Tensor:
        """Both, for each step and part of the path; returns which rows have a finite loss in all of them."""
        steps, means = self.options.ig_steps, {}

        def see(site: Site, pairs: list[Pair]) -> None:
            step: _Rows = {}
            self._reduce(batch, site, "path", pairs, step)
            for key, value in step.items():
                value = value.to(_sum_dtype(value.device)) / steps
                means[key] = means[key] + value if key in means else value

        usable = along_path(self.model, self.sites, batch, self.options, see)
        rows.update({key: mean.abs() for key, mean in means.items()})
        return usable

    def _reducer(self, batch: ScoringBatch, needs: Pass, rows: _Rows) -> Callable[[Site, list[Pair]], None]:
        return lambda site, pairs: self._reduce(batch, site, needs, pairs, rows)

    def _forward_pass(self, batch: ScoringBatch, rows: _Rows) -> torch.Tensor:
        """One forward without a graph; returns which rows have a finite loss."""
        return self._losses_of(batch, "forward", self._activations(lambda a: (a.float(), a.float())), rows)

    def _residual_pass(self, batch: ScoringBatch, rows: _Rows) -> torch.Tensor:
        """The same, with the norms of the residual stream."""
        return self._losses_of(batch, "residual", lambda see: capture_with_stream(self.model, self.sites, see), rows)

    def _losses_of(
        self, batch: ScoringBatch, needs: Pass, attach: Callable[[_See], AbstractContextManager[None]], rows: _Rows
    ) -> torch.Tensor:
        import torch

        losses: list[torch.Tensor] = []

        def run() -> None:
            with torch.no_grad():
                losses[:] = [batch.losses()]

        self._capture(batch, needs, attach, run, rows)
        return torch.isfinite(losses[0])

    def _perturbed_pass(self, batch: ScoringBatch, rows: _Rows) -> None:
        """One forward of twice the rows: the second half has the noise."""

        def halves(a: torch.Tensor) -> Pair:
            # Some vision parts lay the patches of all images one after the other into a single row.
            intact, noisy = a.float().chunk(2, dim=1 if a.shape[0] == 1 else 0)
            return intact, noisy

        def run() -> None:
            batch.run_perturbed(self.options.noise, self.options.seed)

        self._capture(batch, "perturbed", self._activations(halves), run, rows)

    def _activations(self, pair: Callable[[torch.Tensor], Pair]) -> Callable[[_See], AbstractContextManager[None]]:
        """Attaches to every site; a pair is made of each activation."""
        return lambda see: capture_activations(self.model, self.sites, lambda site, a: see(site, pair(a)))

    def _capture(
        self,
        batch: ScoringBatch,
        needs: Pass,
        attach: Callable[[_See], AbstractContextManager[None]],
        run: Callable[[], None],
        rows: _Rows,
    ) -> None:
        """Reduces every site as soon as its module was called; of modules that are called again, all calls together.

        That a module is called twice in a pass is only known at its second call. The pass is then run again, once, and from
        then on that module's calls are kept until the pass ends.
        """
        while True:
            kept: dict[str, list[Pair]] = {}
            seen: set[str] = set()
            again: set[str] = set()

            def see(site: Site, pair: Pair, kept: Any = kept, seen: Any = seen, again: Any = again) -> None:
                if site.key in self._called_again:
                    kept.setdefault(site.key, []).append(pair)
                elif site.key in seen:
                    again.add(site.key)
                else:
                    self._reduce(batch, site, needs, [pair], rows)
                seen.add(site.key)

            with attach(see):
                run()
            if not again:
                break
            self._called_again |= again
        for key, pairs in kept.items():
            site = self.sites.get(key)
            assert site is not None  # it came from there
            self._reduce(batch, site, needs, pairs, rows)

    def _reduce(self, batch: ScoringBatch, site: Site, needs: Pass, pairs: Sequence[Pair], rows: _Rows) -> None:
        """One number a row and neuron, for every scorer of a pass; several calls' tokens count as if they stood in a line."""
        import torch

        shaped = [(self._by_sample(batch, site, a), self._by_sample(batch, site, b)) for a, b in pairs]
        a, other = shaped[0] if len(shaped) == 1 else (torch.cat([pair[i] for pair in shaped], dim=1) for i in (0, 1))
        counted: dict[str, torch.Tensor] = {}  # [rows, tokens]
        for name in self.names:
            scorer = SCORERS[name]
            if self._passes[name] != needs or scorer.reduce is None:
                continue
            positions = scorer.positions or self.options.positions
            if positions not in counted:
                tokens = torch.cat([batch.tokens(site, x.shape[1], positions) for x, _ in shaped], dim=1)
                counted[positions] = tokens.to(a.device)
            value = scorer.reduce(a, other, counted[positions], self.options)  # [rows, channels]
            if scorer.by_weight:
                value = value * self._norm(site).to(value.device)
            if scorer.ranks and site.group > 1:
                value = value.unflatten(1, (site.width, site.group)).sum(2)  # [rows, width]
            rows[name, site.key] = value

    def _by_sample(self, batch: ScoringBatch, site: Site, x: torch.Tensor) -> torch.Tensor:
        """As ``[rows, tokens, channels]``."""
        if x.ndim == 3 and x.shape[0] == len(batch):
            return x
        if len(batch) != 1:
            raise ModelError(f"{site.path} gives {tuple(x.shape)}; expected [{len(batch)}, tokens, width] to score by sample")
        # One sample: whatever comes before the channels (tiles, patches, tokens) is its tokens.
        return x.reshape(1, -1, site.width * site.group)

    def _norm(self, site: Site) -> torch.Tensor:
        if site.key not in self._norms:
            self._norms[site.key] = out_norms(self.model, site)
        return self._norms[site.key]

    def _count_hits(self, rows: _Rows, usable: torch.Tensor) -> None:
        """In which samples each neuron is among the top share of its component and role."""
        import torch

        groups: dict[tuple[str, str, str], list[Site]] = {}
        for name in (n for n in self.names if SCORERS[n].ranks):
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
        importances = {}
        for name in self.names:
            scored = Importance(name, _used(name, self.options), self.sites, samples=self.samples)
            for site in self.sites:
                if (name, site.key) in self._sums:
                    scored.sums[site.key] = self._sums[name, site.key].cpu().double().numpy()
                if (name, site.key) in self._hits:
                    scored.hits[site.key] = self._hits[name, site.key].cpu().numpy()
            importances[name] = scored
        return importances


def _finite_rows(values: Iterable[torch.Tensor]) -> Iterable[torch.Tensor]:
    """On each device, which rows are finite in all values ``[rows, channels]`` that are there: there and back once."""
    found: dict[torch.device, torch.Tensor] = {}
    for value in values:
        finite = value.isfinite().all(1)
        found[value.device] = found[value.device] & finite if value.device in found else finite
    return found.values()


def _sum_dtype(device: torch.device) -> torch.dtype:
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def _used(name: str, options: ScoreOptions) -> dict[str, Any]:
    return {option: getattr(options, option) for option in SCORERS[name].uses}


def _random(sites: Sites, seed: int) -> Importance:
    """Numbers that depend on the seed and the site's name alone, so that they are the same in every process."""
    sums = {s.key: np.random.default_rng([seed, zlib.crc32(s.key.encode())]).random(s.width) for s in sites}
    return Importance("random", {"seed": seed}, sites, sums, samples=1)
