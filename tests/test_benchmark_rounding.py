"""The benchmark of rounding: that it reads what the model says, rounds what it claims to, and subtracts the right way."""

from __future__ import annotations

import math
from typing import Any

import torch

from benchmarks.rounding import COUNTED, LEFT_OUT, PAIR, ROWS, Keep, Reader, Text, cases, difference, paired, row, table, where
from lesion.hooks.edit import edited
from lesion.remedies.rounding import Rounding, layers
from tests.hooks.test_edit import state
from tests.models.test_families import vlm_of


def test_reading_from_a_layer_on_is_reading_whole():
    model: Any = vlm_of("llama").model
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode():
        said = torch.log_softmax(model(ids).logits, -1)[0, :-1].gather(-1, ids[0, 1:, None]).flatten()
    for layer in (0, 1):
        found = Reader(model, [Text("a", ids, 1), Text("a", ids, 7), Text("b", ids, 11)], layer).nlls()
        assert [len(part) for part in found["a"]] == [11, 5] and len(found["b"][0]) == 1
        for part, expected in ((found["a"][0], -said), (found["a"][1], -said[6:]), (found["b"][0], -said[10:])):
            assert torch.allclose(torch.tensor(part), expected, atol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_rounding_outside_and_then_inside_is_rounding_all():
    model = vlm_of("llama").model
    inside = tuple(path for path in layers(model) if ".1.mlp." in path)
    outside = tuple(path for path in layers(model) if path not in inside)
    before = state(model)
    with edited(model, [Rounding(4)]):
        whole = state(model)
    with edited(model, [Rounding(4, only=outside)]):
        assert state(model) not in (before, whole)
        with edited(model, [Rounding(4, only=inside)]):
            assert state(model) == whole
    assert state(model) == before


def test_every_case_is_measured_once():
    chance = [Keep("random", {}, seed) for seed in (0, 1)]
    every = [Keep("nothing", {}), Keep("critical", {}), *chance, Keep("largest", {}, inside=False)]
    first, then, last = ([(k.name, how) for k, how in cases(every, "all", turn)] for turn in range(3))
    assert first == [("nothing", LEFT_OUT), ("critical", LEFT_OUT), ("critical", COUNTED), ("largest", LEFT_OUT)]
    assert then == [("random", LEFT_OUT)] * 2 and last == [("random", COUNTED)] * 2 + [("largest", COUNTED)]
    assert [k.name for k, _ in cases([*every, Keep(ROWS, {})], "all", PAIR)] == ["nothing", ROWS]
    assert list(cases([Keep(ROWS, {})], "all", 0)) == []
    assert "largest" not in {k.name for turn in range(3) for k, _ in cases(every, "layer", turn)}


def test_a_table_says_how_many_nats_keeping_adds():
    def measured(keep: str, nats: float, seed: int | None = None, how: str = LEFT_OUT, bits: int = 4) -> dict[str, Any]:
        # Two parts, of which the longer counts more: the mean is over tokens.
        nlls = {"plain": [[nats + 0.3], [nats, nats - 0.3]]}
        return row(nlls, scope="all", bits=bits, by="row", keep=keep, how=how, seed=seed, weights=1)

    rows = [
        measured("nothing", math.log(10)), measured("critical", math.log(10) - 0.25), measured("random", math.log(10), 0),
        measured("random", math.log(10) + 0.5, 1), measured("critical", 9.0, how=COUNTED), measured("nothing", 0.0, bits=8),
    ]  # fmt: skip
    assert rows[0]["plain"] == round(math.log(10), 6)
    assert rows[0]["plain_parts"] == [round(math.log(10) + x, 6) for x in (0.3, -0.15)]
    assert table(rows, "all", LEFT_OUT, "plain") == [
        "| bits | scale | nothing kept | critical | random |",
        "|---|---|---|---|---|",
        "| 8 | row | 1 | - | - |",
        "| 4 | row | 10 | -0.2500 | +0.2500 (+0.0000 to +0.5000) |",
    ]
    assert table(rows, "layer", LEFT_OUT, "plain") == [] and difference([]) == "-"
    assert sorted(["tensor", "group", "group of 192", "row", "group of 32"], key=where) == [
        "row", "group of 32", "group", "group of 192", "tensor",
    ]  # fmt: skip
    # A text that was not read there is no column of anything.
    assert table([{**rows[0], "plain": 1.0}], "all", LEFT_OUT, "answers") == []


def test_what_keeping_the_pair_adds_part_by_part():
    """Changes of -1, -2 and +0.5: their mean is -5/6, their deviation 1.2583, and two of three are better."""

    def measured(scope: str, bits: int, keep: str, parts: list[float]) -> dict[str, Any]:
        nlls = {"answers": [[nats] for nats in parts]}
        return row(nlls, scope=scope, bits=bits, by="row", keep=keep, how=LEFT_OUT, seed=None, weights=1)

    rows = [
        measured("none", 32, "nothing", [1.0, 1.0, 1.0]), measured("all", 4, "nothing", [4.0, 5.0, 3.0]),
        measured("all", 4, "critical hidden", [3.0, 3.0, 3.5]),
    ]  # fmt: skip
    assert paired(rows, "answers")[2:] == ["| 4 | row | 3.000 | -0.833 | 0.726 | 2 of 3 |"] and paired(rows, "plain")[2:] == []
