"""What a masked model says: its answers, and the likelihoods that it and the intact model give them, as cheaply as is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lesion.ablation.spent import Spent
from lesion.ablation.units import KEPT, Cell, Grouping, Request, Unit, together
from lesion.core.outcome import Likelihood
from lesion.hooks.edit import edited
from lesion.hooks.intervene import mask
from lesion.hooks.intervention import Statistics
from lesion.models.decoding import Reply, chosen
from lesion.models.engines import Asked
from lesion.models.inputs import Answer, Prompt
from lesion.models.layout import TokenLayout
from lesion.models.opened import Opened
from lesion.models.trunk import Entry, Intact, Part
from lesion.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Judged = tuple[int, tuple[int, ...]]
"""A sample's number, and an answer's tokens."""
_CHECKED = 2
"""Samples on which it is seen once a layer whether a pass can start there."""


class Seen(NamedTuple):
    """What was made of a masked model's log-probabilities before each token of a reference answer."""

    nll: Sequence[float]
    """Of each token, in nats."""
    kl: float | None
    """Mean over the tokens of KL(intact || masked), in nats; None where it is not finite."""


@dataclass(frozen=True)
class Said:
    """One sample's answer under a mask, and how likely it is.

    Attributes:
        answer: Greedy.
        reference: Likelihood that the masked model gives the reference answer.
        generated: That it gives its own.
        generated_intact: That the intact model gives that one.
        baseline: That the intact model gives the intact answer.
        kl: Mean over the reference's tokens of KL(intact || masked), in nats; None where it is not finite.
    """

    answer: Answer
    reference: Likelihood
    generated: Likelihood
    generated_intact: Likelihood
    baseline: Likelihood
    kl: float | None


class MaskedReplies:
    """Asks a model about samples under masks.

    Several sets of neurons go through the model in one batch, each masked in its own rows. Nothing is computed again that a
    mask leaves as it is: the vision part for masks of the language model; the layers below the first that is masked; of an
    answer that begins like a known one, all up to where it differs.

    Args:
        vlm: The model.
        prompts: The samples' processed prompts.
        intact: The intact model's own answers.
        references: The answers whose likelihood is ``reference``.
        max_new_tokens: Longest answer.
        batch_size: Rows at a time; does not change the result but for rounding.
        statistics: Those that the interventions need.
        spent: Is added to.
        alone: One row at a time, so that no other decides in which order sums are added.
        kept: So many bytes of what the intact model computed are kept, and so many of what masked ones read before they answer.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        prompts: Sequence[Prompt],
        intact: Sequence[Answer],
        references: Sequence[Answer],
        max_new_tokens: int,
        batch_size: int,
        statistics: Statistics | None = None,
        spent: Spent | None = None,
        alone: bool = False,
        kept: int = KEPT,
    ) -> None:
        self.vlm, self.prompts, self.intact, self.references = vlm, prompts, intact, references
        self.max_new_tokens, self.statistics = max_new_tokens, statistics or {}
        self.spent = Spent() if spent is None else spent
        self.grouping = Grouping(vlm, prompts, max_new_tokens, batch_size, alone, kept)
        self.batch_size = self.grouping.batch_size
        self._budget = kept
        self._contexts: dict[int, Any] = {}
        self._known: dict[int, Intact] = {}
        self._held: dict[tuple[Request, tuple[int, ...]], Opened] = {}
        self._held_most = kept
        self._enterable: dict[int, bool] = {}
        # An encoder-decoder's tokens are not in one line.
        self._classes = None if vlm.is_encoder_decoder else [vlm.token_classes(p) for p in prompts]

    @property
    def room(self) -> int:
        """How many requests cost little more than one: where a pass over more rows takes hardly longer."""
        return self.grouping.ahead()

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[dict[int, list[Likelihood]]]:
        """The likelihoods of the reference answers alone, which take no answer of the masked model's own.

        Args:
            requests: As of :meth:`__call__`.
            hold: Whether their answers will be asked for too: what was read is then held, as far as there is room.

        Yields:
            As :meth:`__call__`.
        """

        yield from self._each(requests, lambda unit: self.likelihoods(requests, unit, hold), reading=True)

    def likelihoods(self, requests: Sequence[Request], unit: Unit, hold: bool = False) -> list[Likelihood]:
        """Of the reference answer in each cell of a unit; ``hold`` as of :meth:`read`."""

        def read(cells: Sequence[Cell]) -> list[Likelihood]:
            parts, opened = self._ask(requests, cells, self._known_of(cells), self.vlm.engine.open)
            if hold:
                self._hold(requests, cells, parts, opened)
            return [Likelihood.of(seen.nll) for of in opened for seen in of.seen]

        return _fitting(read, unit.cells)

    def tokens(self, requests: Sequence[Request]) -> Iterator[dict[int, list[Sequence[float]]]]:
        """The negative log-likelihood of each token of the reference answers, in nats; otherwise as :meth:`__call__`."""

        yield from self._each(requests, lambda unit: self.losses(requests, unit), reading=True)

    def losses(self, requests: Sequence[Request], unit: Unit) -> list[Sequence[float]]:
        """What :meth:`tokens` gives, in each cell of a unit."""

        def read(cells: Sequence[Cell]) -> list[Sequence[float]]:
            _, opened = self._ask(requests, cells, self._known_of(cells), self.vlm.engine.open)
            return [seen.nll for of in opened for seen in of.seen]

        return _fitting(read, unit.cells)

    def _hold(
        self, requests: Sequence[Request], cells: Sequence[Cell], parts: Sequence[Part], opened: Sequence[Opened]
    ) -> None:
        """Keeps what was read, where the rows will be found together again."""
        if self.vlm.wide and len(self.prompts) % self.grouping.reading:
            return
        for part, of in zip(parts, opened, strict=False):  # an engine that cannot go on opens all parts in one
            mine = cells[part.rows.start : part.rows.stop]
            room = self._held_most - sum(held.size for held in self._held.values())
            if of.speeches and len({c.place for c in mine}) == 1 and of.size <= room:
                self._held[requests[mine[0].place], tuple(c.sample for c in mine)] = of

    def __call__(self, requests: Sequence[Request], apart: bool = False) -> Iterator[dict[int, list[Said]]]:
        """Answers each request, those together that go through the model together.

        What is computed depends on the requests alone, not on those before: a study that was killed ends with the same figures.

        Args:
            requests: What is asked.
            apart: Each by itself, so that it does not depend on the others either.

        Yields:
            A request's place -> what was said of each sample.
        """
        yield from self._each(requests, lambda unit: self.said(requests, unit), apart=apart)

    def said(self, requests: Sequence[Request], unit: Unit) -> list[Said]:
        """What is said in each cell of a unit."""
        return _fitting(lambda cells: self._say(requests, cells), unit.cells)

    def _each(
        self, requests: Sequence[Request], ask: Callable[[Unit], list[T]], reading: bool = False, apart: bool = False
    ) -> Iterator[dict[int, list[T]]]:
        """Asks about each sample under each request, unit by unit."""
        for units in self.grouping.units(requests, reading, apart):
            yield together(units, [ask(unit) for unit in units])

    def _say(self, requests: Sequence[Request], cells: Sequence[Cell]) -> list[Said]:
        """What is said in each cell."""
        known = self._known_of(cells)
        _, replies = self._ask(requests, cells, known, self.vlm.engine.reply)
        self.spent.answered(replies)
        judged = self._judged([(c.sample, reply.ids) for c, reply in zip(cells, replies, strict=True)], known)
        return [self._said(c.sample, reply, judged) for c, reply in zip(cells, replies, strict=True)]

    def _known_of(self, cells: Sequence[Cell]) -> dict[int, Intact]:
        """The intact model on each sample."""
        samples = list(dict.fromkeys(c.sample for c in cells))
        return dict(zip(samples, self._intact(samples), strict=True))

    def _ask(
        self, requests: Sequence[Request], cells: Sequence[Cell], known: Mapping[int, Intact], ask: Callable[..., list[T]]
    ) -> tuple[list[Part], list[T]]:
        """Has the engine asked about the cells, each under its mask: the parts, and what the engine gives."""
        places, samples = list(dict.fromkeys(c.place for c in cells)), [c.sample for c in cells]
        first = requests[places[0]]
        references, drafts = [self.references[i] for i in samples], [self.intact[i].ids for i in samples]
        sets = first.neurons if len(places) == 1 else [requests[c.place].neurons for c in cells]
        parts, layout = self._parts(requests, cells, known), self._layout(samples)

        def see(row: int, log_probs: torch.Tensor) -> Seen:
            return Seen(_nll(log_probs, references[row]), _divergence(known[samples[row]].log_probs, log_probs))

        contexts = self._intact_contexts(samples)
        masked = mask(self.vlm.model, sets, first.intervention, self.statistics, layout)
        with self.vlm.prepared(), edited(self.vlm.model, first.edits), masked:
            if not first.language_only:
                contexts = self.vlm.embed([self.prompts[i] for i in samples])
            asked = Asked(contexts, references, drafts, self.max_new_tokens, [c.place for c in cells])
            found = ask(asked, layout, parts, see)
        self.spent.read(parts, len(self.vlm.engine.layers))
        return parts, found

    def _parts(self, requests: Sequence[Request], cells: Sequence[Cell], known: Mapping[int, Intact]) -> list[Part]:
        """Rows that read together: those under one mask, or under several where more rows cost little more."""
        starts = [self.grouping.first_layer(requests[c.place]) for c in cells]
        parts, begin = [], 0
        for row in range(1, len(cells) + 1):
            full = row - begin == self.grouping.reading
            if row == len(cells) or full or (cells[row].place != cells[begin].place and not self.vlm.wide):
                samples = tuple(c.sample for c in cells[begin:row])
                place, last = cells[begin].place, cells[row - 1].place
                held = self._held.pop((requests[place], samples), None) if place == last else None
                entry = self._entry(min(starts[begin:row]), samples, known)
                parts.append(Part(range(begin, row), entry, held))
                begin = row
        return parts

    def _layout(self, samples: Sequence[int]) -> TokenLayout:
        layout = TokenLayout()
        layout.expect([] if self._classes is None else [self._classes[i] for i in samples])
        return layout

    def _said(self, i: int, reply: Reply, judged: Mapping[Judged, Likelihood]) -> Said:
        seen: Seen = reply.seen
        own = Likelihood.of([-value for value in reply.log_probs])
        baseline = judged[i, self.intact[i].ids]
        return Said(
            self.vlm.answer(list(reply.ids)), Likelihood.of(seen.nll), own, judged[i, reply.ids], baseline, seen.kl
        )  # fmt: skip

    # -- the intact model ----------------------------------------------------------------------------------------------
    def _intact_contexts(self, samples: Sequence[int]) -> list[Any]:
        """Computed once, in batches that do not depend on what is asked first."""
        for i in samples:
            if i not in self._contexts:
                start = i // self.batch_size * self.batch_size
                batch = range(start, min(start + self.batch_size, len(self.prompts)))
                self._contexts |= zip(batch, self.vlm.embed([self.prompts[j] for j in batch]), strict=True)
        return [self._contexts[i] for i in samples]

    def _intact(self, samples: Sequence[int]) -> list[Intact]:
        """The intact model on prompts and references; computed once, as far as there is room to keep it."""
        missing = [i for i in samples if i not in self._known]
        new: Mapping[int, Intact] = {}
        # As many rows at a time as masked passes read: what they start from then has the same bits.
        for start in range(0, len(missing), self.grouping.reading):
            part = missing[start : start + self.grouping.reading]
            contexts, references = self._intact_contexts(part), [self.references[i] for i in part]
            with self.vlm.prepared():
                new = {**new, **dict(zip(part, self.vlm.engine.intact(contexts, references), strict=True))}
        for i, found in new.items():
            for kept in (found, found.without_states()):
                if kept.size <= self._budget:
                    self._known[i] = kept
                    self._budget -= kept.size
                    break
        found = {**new, **self._known}
        return [found[i] for i in samples]

    def _entry(self, layer: int, samples: Sequence[int], known: Mapping[int, Intact]) -> Entry | None:
        """Where a pass may start: at a layer at which the intact model's does not change when it starts there."""
        if not layer or not all(known[i].residual for i in samples):
            return None
        if layer not in self._enterable:
            self._enterable[layer] = self._checked(layer, list(dict.fromkeys(samples))[:_CHECKED], known)
        return Entry(layer, [known[i] for i in samples]) if self._enterable[layer] else None

    def _checked(self, layer: int, samples: Sequence[int], known: Mapping[int, Intact]) -> bool:
        import torch

        def same(row: int, log_probs: torch.Tensor) -> bool:
            return torch.allclose(known[samples[row]].log_probs, log_probs, rtol=1e-3, atol=1e-3)

        references, entry = [self.references[i] for i in samples], Entry(layer, [known[i] for i in samples])
        with self.vlm.prepared():
            asked = Asked(self._intact_contexts(samples), references, [()] * len(samples), 1, [0] * len(samples))
            replies = self.vlm.engine.reply(asked, self._layout(samples), [Part(range(len(samples)), entry)], same)
        return all(reply.seen for reply in replies)

    def _judged(self, said: Sequence[Judged], known: Mapping[int, Intact]) -> dict[Judged, Likelihood]:
        """How likely the intact model finds the answers, and its own; each is judged once a batch."""
        wanted = dict.fromkeys([*said, *((i, self.intact[i].ids) for i, _ in said)])
        judged = {
            (i, ids): likelihood(known[i].log_probs, self.references[i]) for i, ids in wanted if ids == self.references[i].ids
        }
        missing = [pair for pair in wanted if pair not in judged]
        for start in range(0, len(missing), self.batch_size):
            part = missing[start : start + self.batch_size]
            places = [i for i, _ in part]
            with self.vlm.prepared():
                found = self.vlm.engine.judge(
                    self._intact_contexts(places), [known[i] for i in places], [self.references[i] for i in places],
                    [Answer(ids, "") for _, ids in part],
                )  # fmt: skip
            judged |= {pair: Likelihood.of([-v for v in values]) for pair, values in zip(part, found, strict=True)}
        return judged


def _fitting(ask: Callable[[Sequence[Cell]], list[T]], cells: Sequence[Cell]) -> list[T]:
    """What is found in each cell; in halves where there is not enough memory for all of them."""
    import torch

    try:
        return ask(cells)
    except torch.OutOfMemoryError:
        if len(cells) == 1:
            raise
    # Outside the handler, which keeps the failed pass's tensors alive.
    half = len(cells) // 2
    return _fitting(ask, cells[:half]) + _fitting(ask, cells[half:])


def likelihood(log_probs: torch.Tensor, answer: Answer) -> Likelihood:
    """Of an answer, from the log-probabilities before each of its tokens, ``[tokens, vocabulary]``."""
    return Likelihood.of(_nll(log_probs, answer))


def _nll(log_probs: torch.Tensor, answer: Answer) -> list[float]:
    """Of each token of an answer."""
    return [-value for value in chosen(log_probs, answer.ids)]


def _divergence(intact: torch.Tensor, masked: torch.Tensor) -> float | None:
    """Mean over tokens of KL(intact || masked), in nats; None where it is not finite."""
    import torch

    value = torch.nn.functional.kl_div(masked, intact, reduction="none", log_target=True).sum(1).mean()
    return float(value) if bool(torch.isfinite(value)) else None
