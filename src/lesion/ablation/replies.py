"""What a masked model says: its answers, and the likelihoods that it and the intact model give them, as cheaply as is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lesion.ablation.spent import Spent
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood
from lesion.hooks.intervene import Intervention, Statistics, Zero, mask
from lesion.models import memory
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
_WIDER = 4
"""So many times the batch size are the rows that read together where that costs little more."""
_WRITING = 8
"""So many times the batch size are the rows that write together: one token a row and pass, they wait for the weights."""
KEPT = 2**30
"""Bytes of what the intact model computed that are kept between masks, and of what masked ones read before they answer."""


@dataclass(frozen=True)
class Request:
    """A question: what does this intervention on these neurons do?"""

    neurons: NeuronSet
    intervention: Intervention = field(default_factory=Zero)

    @property
    def language_only(self) -> bool:
        """Whether what the language model is given stays as it is."""
        return all(site.component == "language" for site in self.neurons.sites)


class Cell(NamedTuple):
    """A request's place among those that are asked, and a sample's number."""

    place: int
    sample: int


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
        statistics: Statistics,
        spent: Spent | None = None,
        alone: bool = False,
        kept: int = KEPT,
    ) -> None:
        self.vlm, self.prompts, self.intact, self.references = vlm, prompts, intact, references
        self.max_new_tokens, self.batch_size, self.statistics = max_new_tokens, 1 if alone else batch_size, statistics
        self.spent = Spent() if spent is None else spent
        # What a masked pass keeps of a sample is small beside what was kept of it when it was scored.
        self._reading = self._writing = self.batch_size
        if vlm.engine.layers and not alone:
            self._reading *= _WIDER if vlm.wide else 1
            self._writing = max(self._reading, min(_WRITING * batch_size, self._fit(kept)))
        self._budget = kept
        self._contexts: list[Any] = []
        self._known: dict[int, Intact] = {}
        self._held: dict[tuple[Request, tuple[int, ...]], Opened] = {}
        self._held_most = kept
        self._enterable: dict[int, bool] = {}
        # An encoder-decoder's tokens are not in one line.
        self._classes = None if vlm.is_encoder_decoder else [vlm.token_classes(p) for p in prompts]

    def _fit(self, size: int) -> int:
        """How many rows' keys and values fit in so many bytes."""
        tokens = max((p.inputs["input_ids"].shape[1] for p in self.prompts), default=1) + 2 * self.max_new_tokens
        return int(size // memory.key_values(self.vlm.model, tokens))

    @property
    def room(self) -> int:
        """How many sets of neurons go through the model at a time."""
        return max(1, self._writing // max(len(self.prompts), 1)) if self.vlm.engine.layers else 1

    def read(self, requests: Sequence[Request], hold: bool = False) -> Iterator[dict[int, list[Likelihood]]]:
        """The likelihoods of the reference answers alone, which take no answer of the masked model's own.

        Args:
            requests: As of :meth:`__call__`.
            hold: Whether their answers will be asked for too: what was read is then held, as far as there is room.

        Yields:
            As :meth:`__call__`.
        """

        def read(cells: Sequence[Cell]) -> list[Likelihood]:
            parts, opened = self._ask(requests, cells, self._known_of(cells), self.vlm.engine.open)
            if hold:
                self._hold(requests, cells, parts, opened)
            return [Likelihood.of(seen.nll) for of in opened for seen in of.seen]

        yield from self._each(requests, read)

    def tokens(self, requests: Sequence[Request]) -> Iterator[dict[int, list[Sequence[float]]]]:
        """The negative log-likelihood of each token of the reference answers, in nats; otherwise as :meth:`__call__`."""

        def read(cells: Sequence[Cell]) -> list[Sequence[float]]:
            _, opened = self._ask(requests, cells, self._known_of(cells), self.vlm.engine.open)
            return [seen.nll for of in opened for seen in of.seen]

        yield from self._each(requests, read)

    def _hold(
        self, requests: Sequence[Request], cells: Sequence[Cell], parts: Sequence[Part], opened: Sequence[Opened]
    ) -> None:
        """Keeps what was read, where the rows will be found together again."""
        if self.vlm.wide and len(self.prompts) % self._reading:
            return
        for part, of in zip(parts, opened, strict=False):  # an engine that cannot go on opens all parts in one
            mine = cells[part.rows.start : part.rows.stop]
            room = self._held_most - sum(held.size for held in self._held.values())
            if of.speeches and len({c.place for c in mine}) == 1 and of.size <= room:
                self._held[requests[mine[0].place], tuple(c.sample for c in mine)] = of

    def __call__(self, requests: Sequence[Request]) -> Iterator[dict[int, list[Said]]]:
        """Answers each request, those together that go through the model together.

        What is computed depends on the requests alone, not on those before: a study that was killed ends with the same figures.

        Yields:
            A request's place -> what was said of each sample.
        """
        yield from self._each(requests, lambda cells: self._say(requests, cells))

    def _each(self, requests: Sequence[Request], ask: Callable[[Sequence[Cell]], list[T]]) -> Iterator[dict[int, list[T]]]:
        """Asks about each sample under each request, as many at a time as fit."""
        for places in self._groups(requests):
            cells = [Cell(place, i) for place in places for i in range(len(self.prompts))]
            most = self._writing if self._splits(requests[places[0]]) else self.batch_size
            found = [x for at in range(0, len(cells), most) for x in _fitting(ask, cells[at : at + most])]
            yield {place: found[n * len(self.prompts) : (n + 1) * len(self.prompts)] for n, place in enumerate(places)}

    def _splits(self, request: Request) -> bool:
        """Whether each row can have a mask of its own."""
        return request.language_only and bool(self.vlm.engine.layers)

    def _groups(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Places of requests that go through the model together: those that start at about the same layer."""
        kinds: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(request.intervention.id if self._splits(request) else str(place), []).append(place)
        for places in kinds.values():
            ordered = sorted(places, key=lambda place: self._first_layer(requests[place]))
            for i in range(0, len(ordered), self.room):
                yield ordered[i : i + self.room]

    def _first_layer(self, request: Request) -> int:
        """Below it the intact model's states hold; 0 if they hold nowhere."""
        layers = self.vlm.engine.layers
        if not layers or not request.language_only:
            return 0
        only, inside = request.intervention.layers, f"{layers.path}."
        touched = [s for s in request.neurons.sites if only is None or s.layer in only]
        if not all(inside in s.path for s in touched):
            return 0
        return min((s.layer for s in touched), default=len(layers) - 1)

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
        with self.vlm.prepared(), mask(self.vlm.model, sets, first.intervention, self.statistics, layout):
            if not first.language_only:
                contexts = self.vlm.embed([self.prompts[i] for i in samples])
            asked = Asked(contexts, references, drafts, self.max_new_tokens, [c.place for c in cells])
            found = ask(asked, layout, parts, see)
        self.spent.read(parts, len(self.vlm.engine.layers))
        return parts, found

    def _parts(self, requests: Sequence[Request], cells: Sequence[Cell], known: Mapping[int, Intact]) -> list[Part]:
        """Rows that read together: those under one mask, or under several where more rows cost little more."""
        starts = [self._first_layer(requests[c.place]) for c in cells]
        parts, begin = [], 0
        for row in range(1, len(cells) + 1):
            full = row - begin == self._reading
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
        if not self._contexts:
            for i in range(0, len(self.prompts), self.batch_size):
                self._contexts += self.vlm.embed(self.prompts[i : i + self.batch_size])
        return [self._contexts[i] for i in samples]

    def _intact(self, samples: Sequence[int]) -> list[Intact]:
        """The intact model on prompts and references; computed once, as far as there is room to keep it."""
        missing = [i for i in samples if i not in self._known]
        new: Mapping[int, Intact] = {}
        # As many rows at a time as masked passes read: what they start from then has the same bits.
        for start in range(0, len(missing), self._reading):
            part = missing[start : start + self._reading]
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
