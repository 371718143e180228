"""Sets of neurons: algebra, files, and refusing models that they do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion.core.errors import NeuronSetError
from lesion.core.identity import Identity
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.sites import Site, Sites

GATE = Site("a.gate_proj", "language", "gate", 0, 50)
DOWN = Site("b.down_proj", "language", "down", 1, 50)
neurons = st.builds(Neuron, st.sampled_from([GATE, DOWN]), st.integers(0, 49))
sets = st.sets(neurons, max_size=40)
MINE = Identity("some/model", "a" * 32, "abc", "float32", ("merged mask 12",))
OTHER = Identity("some/model", "b" * 32, "abc", "float32")


@given(sets, sets)
def test_it_behaves_as_a_set(one, two):
    a, b = NeuronSet(one), NeuronSet(two)
    assert set(a) == one and len(a) == len(one)
    assert set(a | b) == one | two
    assert set(a & b) == one & two
    assert set(a - b) == one - two
    assert (a == b) == (one == two)
    assert all(n in a for n in one)


@given(sets)
def test_files_keep_everything(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("sets") / "set.json"
    NeuronSet(members, MINE).save(path)
    read = NeuronSet.load(path)
    assert read == NeuronSet(members)
    assert read.identity == MINE


def test_indices_outside_the_site_are_refused():
    with pytest.raises(NeuronSetError, match="neurons 0 to 49; found indices 3 to 50"):
        NeuronSet([Neuron(GATE, 3), Neuron(GATE, 50)])
    with pytest.raises(NeuronSetError, match="found indices -1"):
        NeuronSet.from_arrays({GATE: np.array([-1])})


def test_fit_refuses_another_model():
    mine = NeuronSet([Neuron(GATE, 3)])
    assert mine.fit(Sites([GATE, DOWN])) == mine
    with pytest.raises(NeuronSetError, match=r"no gate site at 'a.gate_proj' \(0 others\); is"):
        mine.fit(Sites([DOWN]))
    with pytest.raises(NeuronSetError, match="has 51 neurons in this model; the set expects 50"):
        mine.fit(Sites([Site(GATE.path, "language", "gate", 0, 51)]))


def test_fit_refuses_a_model_with_other_weights():
    """Same sites, same name, same revision: one edited weight makes another model."""
    neurons, sites = NeuronSet([Neuron(GATE, 3)], MINE), Sites([GATE, DOWN])
    with pytest.raises(NeuronSetError, match=r"found in some/model@abc in float32 \(weights a+, .*this model is .*b+.*--force"):
        neurons.fit(sites, OTHER)
    assert neurons.fit(sites, OTHER, force=True).identity == MINE, "they are still those of the first model"
    assert neurons.fit(sites, Identity("local/copy", "a" * 32)) == neurons, "a name makes no other model"
    assert NeuronSet([Neuron(GATE, 3)]).fit(sites, OTHER) == neurons, "nothing is known of where they come from"


def test_subsets_belong_to_the_model_of_the_set():
    neurons, other = NeuronSet([Neuron(GATE, 3), Neuron(GATE, 4)], MINE), NeuronSet([Neuron(GATE, 3)])
    assert (neurons | other).identity == (neurons & other).identity == (neurons - other).identity == MINE


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"format": "lesion-neurons-1", "sites": []}', '{"format": "lesion-neurons-2"}',
        '{"format": "lesion-neurons-2", "sites": [3]}', '{"format": "lesion-neurons-2", "model": {"base": "x"}, "sites": []}',
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, text):
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(NeuronSetError, match=r"set\.json"):
        NeuronSet.load(path)


def test_the_file_is_plain_json(tmp_path):
    NeuronSet([Neuron(GATE, 3), Neuron(GATE, 1)], MINE).save(tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["model"] == {
        "base": "some/model", "weights": "a" * 32, "revision": "abc", "dtype": "float32", "edits": ["merged mask 12"],
        "config": "",
    }  # fmt: skip
    assert data["sites"] == [
        {"path": "a.gate_proj", "component": "language", "role": "gate", "layer": 0, "width": 50, "indices": [1, 3]}
    ]
