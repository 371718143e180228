"""Drafts change no answer, by hand; rows that read, take back and drop out remember as if they had never done so."""

from __future__ import annotations

import pytest
import torch

from lesion.models.decoding import LONGEST, Speech
from lesion.models.embeds_engine import EmbedsEngine
from lesion.models.rows import Rows
from lesion.models.vlm import VisionLanguageModel
from tests.families.__main__ import vlm_of


def spoken(draft: list[int], greedy: list[int], limit: int = 10) -> tuple[Speech, int]:
    speech = Speech(limit, ends=[9])
    return speech, speech.read(draft, greedy, [-1.0 * i for i in range(len(greedy))])


def test_a_draft_is_taken_up_to_where_the_model_differs():
    speech, accepted = spoken([1, 2, 3], [1, 2, 5, 6])
    assert (speech.ids, accepted, speech.log_probs, speech.done) == ([1, 2, 5], 2, [0.0, -1.0, -2.0], False)
    speech, accepted = spoken([1, 2, 3], [1, 2, 3, 4])
    assert (speech.ids, accepted) == ([1, 2, 3, 4], 3)
    speech, accepted = spoken([], [7])
    assert (speech.ids, accepted) == ([7], 0)


def test_an_answer_ends_at_an_end_token_and_at_its_limit():
    speech, _ = spoken([1, 9, 3], [1, 9, 3, 4])
    assert speech.ids == [1, 9] and speech.done
    speech, _ = spoken([1, 2, 3], [1, 2, 3, 4], limit=2)
    assert speech.ids == [1, 2] and speech.done


def test_what_a_draft_is():
    known = Speech(30, [9], (1, 2, 3, 4, 5, 9), ids=[1, 2], log_probs=[0.0] * 2)
    assert known.draft(8) == [3, 4] and known.draft(1) == [3] and known.draft(0) == []
    known.read([3, 4], [3, 4, 5], [0.0] * 3)
    assert known.ids == [1, 2, 3, 4, 5] and known.draft(8) == [9], "a draft that came true is followed by a longer one"
    babble = Speech(30, [9], (1, 2, 3), ids=[5, 6, 7, 5, 6], log_probs=[0.0] * 5)
    assert babble.draft(8) == [7, 5], "what followed 5, 6 the last time"
    babble.read([7, 5], [8, 0, 0], [0.0] * 3)
    assert babble.ids[-1] == 8 and babble.draft(8) == [], "8 has not been said before"
    short = Speech(4, [9], (1, 2, 3, 4, 5, 6), ids=[1, 2], log_probs=[0.0] * 2)
    assert short.draft(8) == [3], "nothing is drafted beyond the longest answer"
    assert max(len(Speech(99, [], (1,) * 99, ids=[1], _trust=LONGEST).draft(n)) for n in range(40)) == LONGEST


def feed(vlm: VisionLanguageModel, rows: Rows, tokens: list[list[int]], left: bool = False) -> torch.Tensor:
    longest = max(map(len, tokens))
    padding = [[0] * (longest - len(t)) for t in tokens]
    ids = torch.tensor([p + t if left else t + p for p, t in zip(padding, tokens, strict=True)])
    ones = [[1] * len(t) for t in tokens]
    counts = torch.tensor([p + o if left else o + p for p, o in zip(padding, ones, strict=True)])
    return rows.feed(vlm.model.get_input_embeddings()(ids), counts, longest)


def test_rows_that_read_apart_read_on_together():
    vlm = vlm_of("llava")
    assert isinstance(vlm.engine, EmbedsEngine)
    read, then = [[[5, 6, 7, 8], [9, 10]], [[11, 12, 13, 14, 15, 16]]], [[17], [18, 19], [20]]
    with torch.inference_mode(), vlm.prepared():
        parts = [Rows(vlm.engine._generator, len(tokens), vlm.device) for tokens in read]
        for part, tokens in zip(parts, read, strict=True):
            feed(vlm, part, tokens, left=True)
        found = feed(vlm, Rows.joined(parts), then)
        for row, (before, after) in enumerate(zip([t for tokens in read for t in tokens], then, strict=True)):
            alone = feed(vlm, Rows(vlm.engine._generator, 1, vlm.device), [before + after])[0]
            torch.testing.assert_close(found[row, : len(after)], alone[len(before) :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "blip_2_opt", "llama"])
def test_rows_remember_what_they_were_left_with(family):
    """Three rows read tokens of their own, take some back, read on, and one drops out: logits are those of one clean pass."""
    vlm = vlm_of(family)
    assert isinstance(vlm.engine, EmbedsEngine)
    generator, table = vlm.engine._generator, vlm.model.get_input_embeddings()
    first, back, then = [[5, 6, 7, 8], [9, 10], [11, 12, 13]], [2, 0, 1], [[14, 15], [16], [17, 18, 19]]

    def alone(tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([tokens])
        places = torch.arange(len(tokens))[None]
        return generator(inputs_embeds=table(ids), attention_mask=ids * 0 + 1, position_ids=places, use_cache=False).logits[0]

    with torch.inference_mode(), vlm.prepared():
        rows = Rows(generator, 3, vlm.device)
        feed(vlm, rows, first)
        rows.take_back(back)
        feed(vlm, rows, then)
        rows.take_back([1, 0, 0])
        rows.only([0, 2])
        found = feed(vlm, rows, [[20, 21], [22]])
        left = [tokens[: len(tokens) - n] for tokens, n in zip(first, back, strict=True)]
        expected = alone([*left[0], 14, 20, 21]), alone([*left[2], 17, 18, 19, 22])
    torch.testing.assert_close(found[0], expected[0][-2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1, :1], expected[1][-1:], rtol=1e-4, atol=1e-4)
