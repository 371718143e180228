"""The rank that every scorer gives a neuron is its place in that scorer's own ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lesion.core.errors import OptionError
from lesion.core.neurons import NeuronSet
from lesion.scoring.scorers import rankers
from lesion.study.ranks import DEAR, ranks
from lesion.study.rundir import RANKS
from lesion.study.study import Study

SMALL: dict[str, Any] = {"samples": 4, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """tiny-llava's seeded neurons, by every scorer."""
    return ranks("tiny-llava", out=tmp_path_factory.mktemp("ranks") / "run", **SMALL)


def test_every_scorer_ranks_every_known_neuron(known):
    assert {row.scorer for row in known.rows} == set(rankers()) - set(DEAR)
    assert {(row.neuron.role, row.of) for row in known.rows} == {("hidden", 6 * 448), ("down", 6 * 192)}
    assert len(known.rows) == len({row.scorer for row in known.rows}) * (4 + 2)
    can = sorted(row.rank for row in known.rows if row.scorer == "can" and row.neuron.role == "hidden")
    assert can == [1, 2, 3, 4], "the seeded units are the first four"
    assert json.loads((Path(known.run) / RANKS).read_text()) == known.model_dump()
    assert [set(row) for row in known.table()] == [{"scorer", *(str(r.neuron) for r in known.rows)}] * len(known.table())


def test_a_rank_is_the_place_in_a_studys_ranking(tmp_path):
    options = {**SMALL, "split": "same", "clip": "none"}
    study = Study("tiny-llava", tmp_path / "study", role="down", scorer="taylor", max_k=1, controls=0, **options)
    result = study.run()
    words = [f"down:{n.layer}:{n.index}" for n in result.top[:3]]
    found = ranks("tiny-llava", words, ["taylor"], tmp_path / "run", **SMALL)
    seen = {str(row.neuron): (row.rank, row.of) for row in found.rows}
    assert seen == {str(n): (n.rank, result.neurons_total) for n in result.top[:3]}


def test_a_file_names_neurons_too(known, tmp_path):
    path = tmp_path / "set.json"
    NeuronSet([row.neuron.neuron() for row in known.rows if row.neuron.role == "down" and row.scorer == "can"]).save(path)
    found = ranks("tiny-llava", path, ["activation"], tmp_path / "run", **SMALL)
    assert [r.rank for r in found.rows] == [r.rank for r in known.rows if (r.scorer, r.neuron.role) == ("activation", "down")]


@pytest.mark.parametrize(
    ("model", "neurons", "scorers", "says"),
    [
        ("tiny-llava", ["down-11"], None, "neuron 'down-11' cannot be read; expected role:layer:index, such as down:11:507"),
        ("tiny-llava", ["down:1:192"], None, "neuron 'down:1:192': that site has 192 neurons"),
        ("tiny-llava", ["gate:9:0"], None, "the model's language part has no reachable gate site in layer 9"),
        ("tiny-llava", ["vision-gate:0:0"], None, "the model's vision part has no reachable gate site in layer 0"),
        ("tiny-llava", None, ["value"], "scorer 'value' gives no ranking"),
        ("tiny-instructblip", None, None, "nothing is known of tiny-instructblip; name neurons, such as down:11:507"),
    ],
)
def test_what_cannot_be_looked_up_is_refused_before_anything_is_written(model, neurons, scorers, says, tmp_path):
    with pytest.raises(OptionError, match=says):
        ranks(model, neurons, scorers, tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()
