"""The verdict: a study's answer in a few sentences, which say no more than was measured.

A *critical handful* is at most :data:`HANDFUL` neurons that are at most :data:`HANDFUL_SHARE` of all, and are not replaced by
chance: the random control sets of that size must show, with 95 % confidence, that fewer than :data:`LUCKY` of all such sets
collapse the model too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lesion.core.collapse import Collapse
from lesion.core.neurons import NeuronSet
from lesion.core.sites import ALL
from lesion.core.statistics import FEWEST, share_upper_bound
from lesion.study.control_entry import ControlEntry, by_kind
from lesion.study.options import StudyOptions
from lesion.study.result import Blind, MaskedAlone

HANDFUL = 10
"""The paper finds four or five neurons in LLaVA and over a thousand in InstructBLIP; up to here we speak of a handful."""
HANDFUL_SHARE = 0.01
LUCKY = 0.5

Luck = Literal["stands", "falls too", "not tested"]


@dataclass(frozen=True)
class Verdict:
    """What a study concludes, from what was measured.

    Attributes:
        model: Its name.
        component: Asked about.
        role: Asked about.
        neurons_total: How many neurons were ranked.
        collapse: What the curve says.
        layers: (component, layer) of each critical neuron.
        random: How many random control sets of the critical size were drawn, and how many collapse the model.
        complaints: Why the intact model does not work on this data (:mod:`lesion.study.health`).
        unsure: Of how many random sets the samples do not tell whether they collapse the model; such a set is no evidence.
        alone: The first neuron by activation, masked alone, where the ranking does not have it among the top k*.
    """

    model: str
    component: str
    role: str
    neurons_total: int
    collapse: Collapse
    layers: Sequence[tuple[str, int]] = ()
    random: tuple[int, int] = (0, 0)
    complaints: Sequence[str] = field(default_factory=list)
    unsure: int = 0
    alone: MaskedAlone | None = None

    @classmethod
    def of(
        cls, options: StudyOptions, total: int, collapse: Collapse, critical: NeuronSet, controls: Sequence[ControlEntry],
        complaints: Sequence[str], blind: Blind | None,
    ) -> Verdict:
        """From what a study found of ``total`` neurons."""
        random = by_kind(controls).get("random")
        return cls(
            options.model, options.component, options.role, total, collapse,
            [(n.site.component, n.site.layer) for n in critical], (random.drawn, random.fallen) if random else (0, 0),
            complaints, random.undecided if random else 0, None if blind is None else blind.alone,
        )  # fmt: skip

    @property
    def share(self) -> float | None:
        """k* as a share of the ranked neurons."""
        return None if self.collapse.k_star is None else self.collapse.k_star / self.neurons_total

    @property
    def luck(self) -> Luck:
        """Whether random sets of the same size leave the model standing, as far as the controls can tell."""
        drawn, fallen = self.random
        if drawn and share_upper_bound(fallen + self.unsure, drawn) <= LUCKY:
            return "stands"
        return "falls too" if fallen else "not tested"

    @property
    def is_few(self) -> bool:
        """Whether k* is a handful by number and by share."""
        k_star, share = self.collapse.k_star, self.share
        return k_star is not None and share is not None and k_star <= HANDFUL and share <= HANDFUL_SHARE

    @property
    def is_handful(self) -> bool:
        """Whether there is a critical handful; see the module."""
        surely = not any(k < (self.collapse.k_star or 0) for k in self.collapse.undecided)
        return self.is_few and surely and self.luck == "stands" and not self.complaints

    @property
    def what(self) -> str:
        """The ranked neurons in words."""
        kind = " ".join(word for word in (self.component, self.role) if word != ALL)
        return f"{self.neurons_total:,} {kind} neurons".replace("  ", " ")

    def __str__(self) -> str:
        lines = []
        if self.complaints:
            lines.append(f"{self.model} does not work on this data even intact: {'; '.join(self.complaints)}.")
        lines.append(self._no_collapse() if self.collapse.k_star is None else self._collapse())
        if self.alone is not None and self.alone.missed:
            lines.append(self._missed(self.alone))
        if self.collapse.samples < FEWEST:
            count = "1 sample" if self.collapse.samples == 1 else f"{self.collapse.samples} samples"
            lines.append(f"Measured on {count}: an example, not evidence.")
        return " ".join(lines)

    def _no_collapse(self) -> str:
        collapse = self.collapse
        if collapse.undecided:
            return (
                f"Undecided: {self._few()} not tell whether masking {collapse.undecided[0]:,} of {self.what} collapses "
                f"{self.model}{self._need()}."
            )
        if collapse.collapsed:
            return f"No lasting collapse up to k = {collapse.largest_k:,} of {self.what}: {self.model} recovers at a larger k."
        if collapse.largest_k < self.neurons_total:
            return f"No collapse up to k = {collapse.largest_k:,} of {self.what} in {self.model}; larger sets were not tried."
        return f"No collapse: {self.model} still stands with all {self.what} masked."

    def _missed(self, alone: MaskedAlone) -> str:
        """A neuron that is named by its activation, and that the ranking has too far down."""
        does = f"collapses {self.model} too" if alone.collapsed else "does more harm than the first of this ranking does alone"
        if self.collapse.k_star is None and alone.collapsed:
            does = f"collapses {self.model}"
        where = "not in this ranking" if alone.rank is None else f"number {alone.rank:,} of this ranking"
        return f"Masked alone, {alone.neuron} {does}: first by activation, and {where}."

    def _few(self) -> str:
        return "1 measured sample does" if self.collapse.samples == 1 else f"{self.collapse.samples} measured samples do"

    def _need(self) -> str:
        return f"; about {self.collapse.samples_needed:,} would" if self.collapse.samples_needed else ""

    def _collapse(self) -> str:
        k_star, share = self.collapse.k_star or 0, 100 * (self.share or 0)
        drawn, fallen = self.random
        standing = drawn - fallen - self.unsure
        open_ks = [k for k in self.collapse.undecided if k < k_star]
        if open_ks:
            none = "No critical handful: m" if min(open_ks) > HANDFUL else "M"
            return (
                f"{none}asking {k_star:,} of {self.what} collapses {self.model}. From k = {min(open_ks):,} on, {self._few()} "
                f"not tell whether it has collapsed already{self._need()}."
            )
        if not self.is_few:
            stands = "" if not drawn else f" {standing} of {drawn} random sets of that size leave it standing."
            until = f"{k_star:,} of {self.what} ({share:.2g} %)"
            return f"No critical handful: {self.model} stands until {until} are masked.{stands}"
        does = f"Masking {k_star} of {self.what}, {self._place()}, collapses {self.model}"
        if self.luck == "stands":
            end = "" if self.complaints else ": a critical handful"
            return f"{does}{end}. {standing} of {drawn} random sets of that size leave it standing."
        if self.luck == "falls too":
            return f"{does}; but {fallen} of {drawn} random sets of that size do so too, so these are no critical handful."
        tested = "were not tried" if not drawn else f"were tried {drawn} times only, which is too few to tell"
        if self.unsure:
            tested = f"were tried {drawn} times, and of {self.unsure} of them the samples do not tell"
        return f"{does}. Whether others would do the same is open: random sets of that size {tested}."

    def _place(self) -> str:
        layers = Counter(self.layers)
        if len(layers) != 1:
            return f"in {len(layers)} layers"
        (where, layer), count = layers.most_common(1)[0]
        return f"all in {where} layer {layer}" if count > 1 else f"in {where} layer {layer}"
