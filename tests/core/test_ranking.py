"""Rankings: one order on every machine, slices that are sets, orders of one's own, files."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lesion.core.curve import Curve
from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.importance import Importance
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from tests.synthetic import curve

SITES = Sites([
    Site("a", "language", "gate", 0, 3), Site("b", "language", "gate", 1, 2),
    Site("e", "language", "gate", 2, 2, expert=1), Site("dead", "language", "gate", 3, 4, reachable=False),
])  # fmt: skip
LIVE = Sites(SITES[:3])


def importance(scorer: str = "can", samples: int = 2) -> Importance:
    sums = {"a:gate": [1.0, 8.0, 1.0], "b:gate": [4.0, 1.0], "e.1:gate": [6.0, 0.0], "dead:gate": [9.0] * 4}
    hits = {"a:gate": [0, 2, 0], "b:gate": [1, 0], "e.1:gate": [1, 0]}
    arrays = {k: np.array(v) for k, v in sums.items()}
    return Importance(scorer, {}, SITES, arrays, {k: np.array(v) for k, v in hits.items()}, samples)


def order(ranking: Ranking) -> list[tuple[str, int]]:
    return [(ranking[i].site.module_name, ranking[i].index) for i in range(len(ranking))]


def test_descending_with_ties_by_site_and_index_and_without_what_cannot_be_reached():
    ranking = Ranking(importance(), SITES)
    assert order(ranking) == [("a", 1), ("e.1", 0), ("b", 0), ("a", 0), ("a", 2), ("b", 1), ("e.1", 1)]
    assert ranking.scores.tolist() == [4.0, 3.0, 2.0, 0.5, 0.5, 0.5, 0.0], "means over two samples"
    assert ranking.name == "can" and list(ranking.sites) == list(LIVE)
    with pytest.raises(OptionError, match="nothing to rank"):
        Ranking(importance(), Sites(SITES[3:]))
    broken = importance()
    broken.sums["b:gate"][1] = np.nan
    with pytest.raises(OptionError, match="1 of 7 scores are not finite"):
        Ranking(broken, SITES)


def test_a_slice_is_a_set_of_neurons():
    ranking = Ranking(importance(), SITES)
    first = ranking[:3]
    assert isinstance(first, NeuronSet) and len(first) == 3
    assert first == ranking.top(3) == NeuronSet(ranking[i] for i in range(3))
    assert ranking[2:4] == NeuronSet([Neuron(SITES[1], 0), Neuron(SITES[0], 0)])
    assert isinstance(ranking[0], Neuron) and ranking[-1] == Neuron(SITES[2], 1)
    assert len(ranking[:0]) == 0 and len(ranking[:100]) == 7
    for k in (-1, 8):
        with pytest.raises(OptionError, match=f"k is {k}; there are 7 ranked neurons"):
            ranking.top(k)


def test_ranks_are_found():
    ranking = Ranking(importance(), SITES)
    assert [ranking.rank_of(ranking[i]) for i in range(7)] == list(range(7))
    assert ranking.rank_of(Neuron(SITES[3], 0)) is None
    assert Ranking.of([Neuron(SITES[0], 1)], LIVE).rank_of(Neuron(SITES[0], 0)) is None


def test_an_order_of_ones_own():
    neurons = [Neuron(SITES[1], 0), Neuron(SITES[0], 2)]
    ranking = Ranking.of(neurons, LIVE, "mine")
    assert order(ranking) == [("b", 0), ("a", 2)] and ranking.name == "mine" and ranking.importance is None
    assert np.isnan(ranking.scores).all()
    for bad, says in (
        ([], "0 neurons"), (neurons + neurons[:1], "3 neurons, 2 different ones"),
        ([Neuron(SITES[3], 0)], r"language layer 3 gate\[0\] is not among the chosen sites"),
    ):  # fmt: skip
        with pytest.raises(NeuronSetError, match=says):
            Ranking.of(bad, LIVE)


def test_the_digest_is_that_of_the_order():
    neurons = [Neuron(SITES[1], 0), Neuron(SITES[0], 2)]
    one = Ranking.of(neurons, LIVE)
    assert one.digest == Ranking.of(neurons, LIVE, "other name", [2.0, 1.0]).digest
    assert one.digest != Ranking.of(neurons[::-1], LIVE).digest != Ranking.of(neurons[1:], LIVE).digest


def test_a_file_has_everything(tmp_path):
    ranking, path = Ranking(importance(), SITES), tmp_path / "ranking.csv"
    ranking.save(path, {"can": importance(), "taylor": importance("taylor")})
    lines = path.read_text().splitlines()
    assert lines[0] == "rank,path,component,role,layer,expert,index,can,consistency,taylor"
    assert lines[1:3] == ["1,a,language,gate,0,,1,4,1,4", "2,e,language,gate,2,1,0,3,0.5,3"]
    read = Ranking.load(path, LIVE)
    assert read.digest == ranking.digest and read.name == "can" and read.scores.tolist() == ranking.scores.tolist()
    assert Ranking.load(path, LIVE, 2)[:] == ranking[:2]


def test_a_file_of_ones_own_needs_three_columns(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path,role,index\nb,gate,0\na,gate,2\n")
    ranking = Ranking.load(path, LIVE)
    assert order(ranking) == [("b", 0), ("a", 2)] and ranking.importance is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,role,index\nb,gate,5\n", "line 2: b:gate has neurons 0 to 1; found 5"),
        ("path,role,index\nb,gate,-1\n", "line 2: b:gate has neurons 0 to 1; found -1"),
        ("path,role,index\nb,gate,0\nc,up,0\n", "line 3: the model has no up site at 'c'"),
        ("path,index\nb,0\n", "line 2 is not a line of a ranking"),
        ("path,role,index\nb,gate,one\n", "line 2 is not a line of a ranking"),
        ("path,role,index\nb,gate,0\nb,gate,0\n", "2 neurons, 1 different ones"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, text, says):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(NeuronSetError, match=says):
        Ranking.load(tmp_path / "r.csv", LIVE)


def test_how_many_of_a_file_are_read_is_checked(tmp_path):
    Ranking(importance(), SITES).save(tmp_path / "r.csv")
    for limit in (0, 8, -1):
        with pytest.raises(OptionError, match=f"k is {limit}"):
            Ranking.load(tmp_path / "r.csv", LIVE, limit)
    with pytest.raises(NeuronSetError, match="cannot be read as a ranking: No such file"):
        Ranking.load(tmp_path / "none.csv", LIVE)


# -- for notebooks ---------------------------------------------------------------------------------------------------------
def test_nouns_become_frames():
    pytest.importorskip("pandas")
    ranking, scored = Ranking(importance(), SITES), importance()
    frame = ranking.to_frame()
    assert list(frame["index"]) == [1, 0, 0, 0, 2, 1, 1] and list(frame["rank"]) == list(range(1, 8))
    assert list(frame["score"]) == ranking.scores.tolist()
    assert len(scored.to_frame()) == SITES.neurons and list(scored.to_frame()["can"])[:3] == [0.5, 4.0, 0.5]
    assert list(ranking[:2].to_frame()["index"]) == [1, 0]
    points: Curve = curve([0, 1], [0.2, 4.0], [80, 20])
    assert list(points.to_frame()["k"]) == [0, 1] and points.to_frame()["clip_score"].tolist() == pytest.approx([80, 20])


def test_without_pandas_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for noun in (Ranking(importance(), SITES), importance(), NeuronSet(), curve([0, 1], [0.2, 4.0], [80, 20])):
        with pytest.raises(OptionError, match="data frames need pandas, which is not installed: pip install pandas"):
            noun.to_frame()


def test_nouns_are_short_in_a_notebook():
    ranking = Ranking(importance(), SITES)
    for noun in (ranking, importance(), ranking[:3], curve([0, 1], [0.2, 4.0], [80, 20]), SITES):
        assert len(repr(noun)) < 300 and "\n" not in repr(noun)
        html = noun._repr_html_()
        assert html.count("<tr>") <= 11 and "None" not in html
    many = NeuronSet(Neuron(Site("x", "language", "gate", 0, 500), i) for i in range(500))
    assert "and 490 more" in many._repr_html_() and len(repr(many)) < 400


def test_a_name_is_escaped_in_a_notebook():
    site = Site("a<b>", "language", "gate", 0, 1)
    sites = Sites([site])
    html = Importance("<i>", {}, sites, {site.key: np.ones(1)}, samples=1)._repr_html_()
    assert "<i>" not in html and "a<b>" not in html and "a&lt;b&gt;" in html
