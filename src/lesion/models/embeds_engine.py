"""The :class:`EmbedsEngine`: starts from the embeddings that the language model is called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError
from lesion.models.beginnings import Beginning
from lesion.models.decoding import Reply, Speech, chosen
from lesion.models.engines import Asked, See, open_plainly, plain_generation, reply_plainly
from lesion.models.handle import ModelHandle
from lesion.models.inputs import Answer, Prompt, collate
from lesion.models.layout import TokenLayout
from lesion.models.opened import Opened
from lesion.models.rows import KeyValues, Rows
from lesion.models.trunk import DecoderLayers, Intact, Part

if TYPE_CHECKING:
    import torch


_WIDTH = (32, 256)
"""Tokens that a pass of decoding reads at most, drafts and all; the second where more rows cost little more."""


class _Captured(Exception):  # noqa: N818 (not an error: it carries what the decoder was called with)
    def __init__(self, embeds: torch.Tensor) -> None:
        super().__init__()
        self.embeds = embeds


class EmbedsEngine:
    """Starts from the embeddings that the language model is called with. A context is ``[tokens, width]``."""

    one_pass = True

    def __init__(self, model_handle: ModelHandle) -> None:
        self._handle = model_handle
        self._decoder = model_handle.model.get_submodule(model_handle.structure.decoder)
        self._generator: Any = model_handle.model.get_submodule(model_handle.structure.generator)
        self.layers = DecoderLayers(self._generator if _sees_all(model_handle.model.config.get_text_config()) else None)

    def embed(self, prompts: Sequence[Prompt]) -> list[Any]:
        import torch

        def capture(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            embeds = kwargs.get("inputs_embeds")
            raise _Captured(self._handle.model.get_input_embeddings()(kwargs["input_ids"]) if embeds is None else embeds)

        inputs = collate([p.inputs for p in prompts], self._handle.pad)
        hook = self._decoder.register_forward_pre_hook(capture, with_kwargs=True)
        try:
            with torch.inference_mode():
                self._handle.model(**inputs)
        except _Captured as captured:
            kept = inputs["attention_mask"].bool()
            return [row[keep].clone() for row, keep in zip(captured.embeds, kept, strict=True)]
        finally:
            hook.remove()
        raise ModelError(f"{self._handle.name}: {self._handle.structure.decoder} was never called")

    def generate(self, contexts: Sequence[Any], max_new_tokens: int) -> list[list[int]]:
        import torch

        joined, mask = _left_pad(contexts)
        plain = plain_generation(self._handle, max_new_tokens)
        with torch.inference_mode():
            return self._generator.generate(inputs_embeds=joined, attention_mask=mask, generation_config=plain).tolist()

    def answer_log_probs(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        import torch

        joined, mask = _left_pad(self._forced(contexts, answers))
        keep = max(len(a.ids) for a in answers) + 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self._generator(
                inputs_embeds=joined, attention_mask=mask, position_ids=positions, logits_to_keep=keep, use_cache=False
            ).logits
        # The last position predicts what comes after the answer.
        return [row[keep - 1 - len(a.ids) : keep - 1].float().log_softmax(-1) for row, a in zip(logits, answers, strict=True)]

    def open(self, asked: Asked, layout: TokenLayout, parts: Sequence[Part], see: See) -> list[Opened]:
        if not self.layers:
            return open_plainly(self, asked, layout, see)
        return [part.opened or self._opened(asked, part, layout, see) for part in parts]

    def reply(self, asked: Asked, layout: TokenLayout, parts: Sequence[Part], see: See) -> list[Reply]:
        import torch

        if not self.layers:
            return reply_plainly(self, self._handle, asked, layout, see)
        opened = self.open(asked, layout, parts, see)
        seen, speeches = [x for of in opened for x in of.seen], [s for of in opened for s in of.speeches]
        active = [part.rows[place] for part, of in zip(parts, opened, strict=True) for place in of.left]
        waiting = [of.rows for of in opened if of.rows is not None]
        with torch.inference_mode():
            passes = self._speak(Rows.joined(waiting), active, speeches, layout) if waiting else {}
        return [
            Reply(known, tuple(s.ids), tuple(s.log_probs), s.accepted, 1 + passes.get(row, 0))
            for row, (known, s) in enumerate(zip(seen, speeches, strict=True))
        ]

    def _opened(self, asked: Asked, part: Part, layout: TokenLayout, see: See) -> Opened:
        """Has a part's rows read."""
        import torch

        mine = [(asked.contexts[row], asked.references[row], asked.masks[row]) for row in part.rows]
        contexts, references, masks = zip(*mine, strict=True)
        opened = Opened([], [Speech(asked.max_new_tokens, self._handle.eos, asked.drafts[row]) for row in part.rows])
        with torch.inference_mode():
            rows, logits = self._prefill(contexts, references, Beginning.of(contexts, masks), layout, part)
            back = []
            for row, reference, own_logits, speech in zip(part.rows, references, logits, opened.speeches, strict=True):
                values, tokens, own = self._greedy(own_logits[len(own_logits) - 1 - len(reference.ids) :])
                opened.seen.append(see(row, values[:-1]))
                back.append(len(reference.ids) - speech.read(reference.ids, tokens, own))
            if left := opened.left:
                rows.only(left)
                rows.take_back([back[place] for place in left])
                opened.rows = rows
        return opened

    def _speak(self, rows: Rows, active: list[int], speeches: Sequence[Speech], layout: TokenLayout) -> dict[int, int]:
        """Writes answers to their ends.

        Args:
            rows: Have read all that is written but its last token.
            active: The rows' numbers.
            speeches: What is written so far, of all rows.
            layout: Is told what each pass is over.

        Returns:
            A row's number -> its number of passes.
        """
        width = _WIDTH[self._handle.wide]
        passes = dict.fromkeys(active, 0)
        while active:
            layout.speak(active)
            drafts = [speeches[row].draft(width // len(active) - 1) for row in active]
            fed = [[speeches[row].ids[-1], *draft] for row, draft in zip(active, drafts, strict=True)]
            back = []
            for row, draft, predicted in zip(active, drafts, self._feed(rows, fed), strict=True):
                passes[row] += 1
                _, tokens, own = self._greedy(predicted[: len(draft) + 1])
                back.append(len(draft) - speeches[row].read(draft, tokens, own))
            if left := [place for place, row in enumerate(active) if not speeches[row].done]:
                if len(left) < len(active):
                    rows.only(left)
                rows.take_back([back[place] for place in left])
            active = [active[place] for place in left]
        return passes

    def _feed(self, rows: Rows, fed: Sequence[Sequence[int]]) -> torch.Tensor:
        """Has each row read its tokens; logits after each of them, padded on the right."""
        import torch

        longest, device = max(map(len, fed)), self._handle.device
        ids = torch.tensor([[*tokens, *[self._handle.pad] * (longest - len(tokens))] for tokens in fed], device=device)
        counts = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in fed], device=device)
        return rows.feed(self._handle.model.get_input_embeddings()(ids), counts, longest)

    def _greedy(self, logits: torch.Tensor) -> tuple[torch.Tensor, list[int], list[float]]:
        """Log-probabilities, ``[tokens, vocabulary]``; the token that comes next at each place, and its own."""
        import torch

        image, logits = self._handle.image_token, logits.float()
        usable = logits if image is None else logits.index_fill(-1, torch.tensor([image], device=logits.device), -torch.inf)
        tokens, values = usable.argmax(-1), logits.log_softmax(-1)
        return values, tokens.tolist(), values.gather(-1, tokens[:, None])[:, 0].tolist()

    def _prefill(
        self, contexts: Sequence[Any], references: Sequence[Answer], begin: Beginning, layout: TokenLayout, part: Part
    ) -> tuple[Rows, torch.Tensor]:
        """Reads prompts and references: the rows, and the logits from the last token of the prompt on."""
        forced, every = self._forced(contexts, references), range(len(contexts))

        def read(rows: Rows, places: Sequence[int], tokens: slice, keep: int) -> torch.Tensor:
            joined, mask = _left_pad([forced[p][tokens] for p in places])
            if part.entry is None:
                return rows.feed(joined, mask, keep)
            residual, _ = _left_pad([part.entry.residual(p, tokens) for p in places])
            with self.layers.entered(part.entry.layer, residual):
                logits = rows.feed(joined, mask, keep)
            rows.put([part.entry.skipped(p, tokens) for p in places], range(part.entry.layer))
            return logits

        rows = Rows(self._generator, len(begin.readers) if begin.tokens else len(contexts), self._handle.device)
        if begin.tokens:
            layout.read([part.rows[p] for p in begin.readers], [0] * len(begin.readers), end=begin.tokens)
            read(rows, begin.readers, slice(begin.tokens), 1)
            rows.only(begin.reader)
        layout.read(part.rows, [len(a.ids) for a in references], begin=begin.tokens)
        return rows, read(rows, every, slice(begin.tokens, None), max(len(a.ids) for a in references) + 1)

    def _forced(self, contexts: Sequence[Any], answers: Sequence[Answer]) -> list[torch.Tensor]:
        """Embeddings of prompts with answers after them, ``[tokens, width]`` each."""
        import torch

        table, rows = self._handle.model.get_input_embeddings(), []
        for prompt, answer in zip(contexts, answers, strict=True):
            spoken = table(torch.tensor(answer.ids, dtype=torch.long, device=self._handle.device))
            rows.append(torch.cat([prompt, spoken.to(prompt)]))
        return rows

    def intact(self, contexts: Sequence[Any], references: Sequence[Answer]) -> list[Intact]:
        import torch

        if not self.layers:
            return [Intact(log_probs) for log_probs in self.answer_log_probs(contexts, references)]
        every = range(len(contexts))
        begin = Beginning.of(contexts, [0] * len(contexts))
        with torch.inference_mode(), self.layers.watched() as seen:
            rows, logits = self._prefill(contexts, references, begin, TokenLayout(), Part(every))
        found = []
        for row, (context, answer) in enumerate(zip(contexts, references, strict=True)):
            rest = len(context) + len(answer.ids) - begin.tokens
            on_answer = logits[row, logits.shape[1] - 1 - len(answer.ids) : -1].float().log_softmax(-1)
            residual = [torch.cat([*(x[0] for x in first), last[row, -rest:]]) for *first, last in seen.values()]
            found.append(Intact(on_answer, residual, rows.key_values(row, len(self.layers))))
        return found

    def judge(
        self, contexts: Sequence[Any], intact: Sequence[Intact], references: Sequence[Answer], answers: Sequence[Answer]
    ) -> list[list[float]]:
        """An answer that begins as the reference does is read from where it differs on."""
        import torch

        if not all(known.key_values for known in intact):
            return [chosen(p, a.ids) for p, a in zip(self.answer_log_probs(contexts, answers), answers, strict=True)]
        same = [_shared(a.ids, r.ids) for a, r in zip(answers, references, strict=True)]
        values = [chosen(known.log_probs[: n + 1], a.ids[: n + 1]) for n, known, a in zip(same, intact, answers, strict=True)]
        fed = [a.ids[n:-1] for n, a in zip(same, answers, strict=True)]
        if any(fed):
            rows = Rows(self._generator, len(answers), self._handle.device)
            whole = [len(c) + n for c, n in zip(contexts, same, strict=True)]
            kept = [_first(known.key_values, n) for known, n in zip(intact, whole, strict=True)]
            rows.put(kept, range(len(intact[0].key_values)))
            with torch.inference_mode():
                logits = self._feed(rows, fed)
            for value, n, answer, row in zip(values, same, answers, logits, strict=True):
                rest = answer.ids[n + 1 :]
                value += chosen(row[: len(rest)].float().log_softmax(-1), rest)
        return values


def _sees_all(config: Any) -> bool:
    """Whether every layer attends to all tokens before; elsewhere a token that is taken back would leave traces."""
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds == {"full_attention"} and not window


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers have in common at their beginning, one of each left over at least."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), most)


def _first(key_values: KeyValues, tokens: int) -> KeyValues:
    return [(keys[:, :tokens], values[:, :tokens]) for keys, values in key_values]


def _left_pad(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """``[rows, longest, width]`` with the rows at the right, and their attention mask ``[rows, longest]``."""
    import torch

    longest = max(len(r) for r in rows)
    joined = torch.stack([torch.nn.functional.pad(r, (0, 0, longest - len(r), 0)) for r in rows])
    lengths = torch.tensor([len(r) for r in rows], device=joined.device)
    mask = torch.arange(longest, device=joined.device) >= (longest - lengths)[:, None]
    return joined, mask.long()
