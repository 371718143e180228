"""A :class:`Certificate`: how likely the reference answers are with each single neuron masked, for anyone to check a claim.

"No single neuron collapses this model" is a claim about every one of them, and takes a measurement of every one. The file
``certificate.jsonl`` holds them, and grows as they are made. Its first line says of what: the model, the mask, the criterion,
the samples with the tokens of their reference answers and the mean NLL (in nats) that the intact model gives each, and the
sites. Every other line is one of

``{"site": 0, "first": 64, "nll": [[...], ...]}``
    The neurons 64, 65, ... of the first site, each masked alone: the mean NLL of each sample's reference answer; null where it
    is not finite.
``{"pairs": [[[0, 3], [1, 7]], ...], "nll": [[...], ...]}``
    The same with two neurons masked, each a site's place and an index.
``{"sets": [[[0, 3]], ...], "collapsed": [true, ...]}``
    What the criterion says of sets of which the NLL alone does not decide; null where the samples do not tell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesion.core.errors import RunError
from lesion.core.journal import Journal
from lesion.core.outcome import Likelihood, pool
from lesion.core.parsing import number_of

FORMAT = "lesion-certificate-1"
FILE = "certificate.jsonl"

Place = tuple[int, int]
"""A site's place among the certificate's sites, and a neuron's index."""
Members = tuple[Place, ...]
"""A set of neurons."""


@dataclass
class Certificate:
    """What was measured of sets of neurons.

    Attributes:
        journal: The file.
        head: Its first line.
        nll: Set -> each sample's mean NLL.
        collapsed: What the criterion said of those that it was asked about.
    """

    journal: Journal
    head: dict[str, Any]
    nll: dict[Members, list[float | None]] = field(default_factory=dict)
    collapsed: dict[Members, bool | None] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, head: dict[str, Any]) -> Certificate:
        """Begins a certificate, or reads what is there of it.

        Raises:
            RunError: It is about something else, or damaged.
        """
        journal, head = Journal(path), json.loads(json.dumps(head))
        lines = journal.read(mend=True)
        if not lines:
            journal.append([head])
        if lines and lines[0] != head:
            raise RunError(f"{path} is about another model, data or criterion; delete it, or give the study another --out")
        made = cls(journal, head)
        try:
            for line in lines[1:]:
                made._take(line)
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path} is damaged; delete it to have it measured again") from None
        return made

    def _take(self, line: dict[str, Any]) -> None:
        if "collapsed" in line:
            self.collapsed |= {
                self._members(s): _answer(c) for s, c in zip(line["sets"], line["collapsed"], strict=True)
            }  # fmt: skip
        else:
            sets = line["pairs"] if "pairs" in line else [[(line["site"], line["first"] + i)] for i in range(len(line["nll"]))]
            self.nll |= {self._members(s): self._row(nll) for s, nll in zip(sets, line["nll"], strict=True)}

    def _members(self, entries: Any) -> Members:
        """A set as JSON has it, as a key; a certificate may come from anyone, and proves nothing of neurons there are not."""
        sites = self.head["sites"]
        for site, index in entries:
            if number_of(site, "a site", len(sites) - 1) < 0 or number_of(index, "an index", sites[site]["width"] - 1) < 0:
                raise ValueError("there is no such neuron")
        return members_of(entries)

    def _row(self, nll: Any) -> list[float | None]:
        """One value a sample."""
        return [Likelihood.from_dict({"nll": v, "tokens": t}).nll for v, t in zip(nll, self.head["tokens"], strict=True)]

    @property
    def path(self) -> Path:
        """The file."""
        return self.journal.path

    # -- adding --------------------------------------------------------------------------------------------------------
    def add_singles(self, site: int, first: int, nll: Sequence[Sequence[float | None]]) -> None:
        """Keeps single neurons of a site that stand in a line."""
        self._keep({"site": site, "first": first, "nll": [list(row) for row in nll]})

    def add_pairs(self, pairs: Sequence[Members], nll: Sequence[Sequence[float | None]]) -> None:
        """Keeps pairs."""
        self._keep({"pairs": [list(map(list, pair)) for pair in pairs], "nll": [list(row) for row in nll]})

    def add_decision(self, members: Members, collapsed: bool | None) -> None:
        """Keeps what the criterion says."""
        self._keep({"sets": [list(map(list, members))], "collapsed": [collapsed]})

    def _keep(self, line: dict[str, Any]) -> None:
        self.journal.append([line])
        self._take(line)

    # -- what it says --------------------------------------------------------------------------------------------------
    def sets(self, size: int) -> Iterator[Members]:
        """The sets of so many neurons that were measured."""
        return (members for members in self.nll if len(members) == size)

    def likelihoods(self, members: Members | None) -> list[Likelihood]:
        """Of each sample's reference answer with a set masked; None for the intact model's."""
        means = self.head["intact"] if members is None else self.nll[members]
        return [Likelihood(nll, tokens) for nll, tokens in zip(means, self.head["tokens"], strict=True)]

    def rise(self, members: Members) -> float:
        """Of the mean NLL over all tokens, in nats; infinite where it is not finite."""
        before, after = pool(self.likelihoods(None)).nll, pool(self.likelihoods(members)).nll
        return math.inf if before is None or after is None else after - before


def members_of(entries: Sequence[Sequence[int]]) -> Members:
    """A set as JSON has it, as a key."""
    return tuple(sorted((int(site), int(index)) for site, index in entries))


def _answer(collapsed: Any) -> bool | None:
    if collapsed is not None and not isinstance(collapsed, bool):
        raise TypeError("the criterion says yes, no or nothing")
    return collapsed
