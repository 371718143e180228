"""``lesion paper`` on the embedded models: one quick run, and what its tables must say and be made from."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lesion import zoo
from lesion.ablation.evaluator import Evaluator
from lesion.core.collapse import detect_collapse
from lesion.core.curve import Curve
from lesion.core.errors import OptionError, RunError
from lesion.core.evaluation import Evaluation
from lesion.core.sites import ALL
from lesion.paper import Paper, opened, paper
from lesion.paper.cell import Cell
from lesion.paper.methods import Methods
from lesion.paper.parts import PARTS
from lesion.study.published import known
from lesion.study.rundir import EVALUATIONS, RunDirectory
from lesion.zoo.scenes import CATEGORIES
from tests import tiny_models

NAMES = ["where", "stages", "modes", "categories", "methods", "masks", "luck", "stability", "verdict", "known"]
LLAVA, BLIP = "tiny-llava", "tiny-instructblip"


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Paper:
    return paper(out=tmp_path_factory.mktemp("paper") / "out", quick=True)


def rows(everything: Paper, table: str, **match: object) -> list[dict[str, str]]:
    with (everything.out / "tables" / f"{table}.csv").open() as file:
        return [r for r in csv.DictReader(file) if all(r[name] == str(value) for name, value in match.items())]


def lines(everything: Paper, model: str) -> dict[str, dict]:
    text = (everything.out / model / EVALUATIONS).read_text()
    return {entry["key"]: entry for entry in map(json.loads, text.splitlines())}


# -- what it leaves behind ---------------------------------------------------------------------------------------------
@pytest.mark.timeout(1800)  # the fixture: 3 minutes on two quiet cores
def test_every_part_is_there_for_every_model(everything):
    assert list(everything.results) == [LLAVA, BLIP]
    summary = (everything.out / "summary.md").read_text()
    assert "<h1>Summary</h1>" in (everything.out / "summary.html").read_text()
    for model, parts in everything.results.items():
        assert list(parts) == NAMES
        for part in parts.values():
            assert part.words() and part.title in summary
            assert all(line in summary for line in part.words())
            for kind in ("svg", "png"):
                assert (everything.out / "figures" / f"{part.name}-{model}.{kind}").stat().st_size > 2000
    for name in NAMES:
        assert {r["model"] for r in rows(everything, name)} <= {LLAVA, BLIP}
        assert (everything.out / "tables" / f"{name}.md").exists()
    assert yaml.safe_load((everything.out / "paper.yaml").read_text())["plan"]["per_category"] == 8


def test_a_notebook_shows_each_part(everything):
    for part in everything.results[LLAVA].values():
        shown = part._repr_html_()
        assert shown.startswith("<h3>") and "data:image/png;base64," in shown and part.words()[0][:10] in shown


def test_a_second_call_measures_nothing_again(everything, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr(Evaluator, "stream", never)
    before = {model: (everything.out / model / EVALUATIONS).read_bytes() for model in everything.results}
    again = paper(out=everything.out, quick=True)
    assert again.table("where") == everything.table("where") and again.words() == everything.words()
    assert {model: (everything.out / model / EVALUATIONS).read_bytes() for model in everything.results} == before


def test_another_question_does_not_go_into_the_same_folder(everything):
    with pytest.raises(RunError, match="another"):
        paper(out=everything.out, quick=True, prompt="What is it?")


# -- every number has a line -------------------------------------------------------------------------------------------
def test_every_row_names_lines_that_were_measured(everything):
    curves = {(r["model"], r["curve"]) for r in rows(everything, "curves")}
    about = [(r["model"], r["curve"]) for r in rows(everything, "cells")]
    assert len(about) == len(set(about)) and set(about) == curves
    measured = {model: lines(everything, model) for model in everything.results}
    tables = sorted((everything.out / "tables").glob("*.csv"))
    assert len(tables) > len(NAMES)
    checked = 0
    for path in tables:
        for row in rows(everything, path.stem):
            if row.get("curve"):
                assert (row["model"], row["curve"]) in curves, path
                checked += 1
            for column in ("evaluation", "intact_evaluation"):
                if row.get(column):
                    assert row[column] in measured[row["model"]], path
                    checked += 1
    assert checked > 500


def test_tables_can_be_recomputed_from_the_lines(everything):
    """k*, its interval, stage 1 and the perplexities of ``where`` and ``methods``, from the samples' values alone."""
    for model in everything.results:
        with RunDirectory.open(everything.out / model, _options(everything, model)) as run:
            for table in ("where", "methods", "categories", "stability"):
                for row in rows(everything, table, model=model):
                    points = rows(everything, "curves", model=model, curve=row["curve"])
                    curve = Curve(
                        [_kept(run, p) for p in points],
                        _chance(everything, model, row["curve"]),
                    )
                    collapse = detect_collapse(curve, seed=0)
                    for at, point in zip(points, curve, strict=True):
                        nll = point.metrics["nll_reference"]
                        assert at["nll_reference"] == ("" if nll is None else f"{nll:.9g}")
                        assert (at["decision"] == "collapsed") == (point.k in collapse.collapsed)
                        assert (at["decision"] == "undecided") == (point.k in collapse.undecided)
                    want = [row["stage1_k"], row["k_star"], row["k_star_low"], row["k_star_high"]]
                    got = [collapse.stage1_k, collapse.k_star, *collapse.k_star_ci]
                    assert want == ["" if value is None else str(value) for value in got], row


def _kept(run: RunDirectory, row: dict[str, str]) -> Evaluation:
    evaluation = run.evaluation(row["evaluation"])
    assert evaluation is not None and evaluation.k == int(row["k"])
    return evaluation


def _options(everything: Paper, model: str):
    from lesion.study.options import StudyOptions

    return StudyOptions.from_yaml((everything.out / model / "config.yaml").read_text(), model)


def _chance(everything: Paper, model: str, curve: str):
    """The chance level is a property of the images and the intact answers; it is the curve's."""
    for part in everything.results[model].values():
        for cell in _cells(part):
            if cell.name == curve:
                return cell.curve.chance
    raise AssertionError(curve)


def _cells(part: Any) -> list[Cell]:
    cells: Any = getattr(part, "cells", getattr(part, "counts", ()))
    own: list[Cell] = list(cells.values() if isinstance(cells, dict) else cells)
    return own + [method.cell for method in getattr(part, "methods", ())]


# -- tiny-llava, whose truth is known -----------------------------------------------------------------------------------
def seeded(role: str) -> set[int]:
    indices = [c.row if role == "down" else c.column for c in known(LLAVA).coordinates]
    return {index for index in indices if index is not None}


@pytest.mark.parametrize("role", ["gate", "hidden"])
def test_the_minimal_set_is_the_seeded_one(everything, role):
    proof = next(p for p in everything.results[LLAVA]["luck"].proofs if p.role == role)
    assert proof.minimal is not None and proof.minimal.verified
    assert {n.index for n in proof.minimal.neurons} == seeded(role)
    assert {n.site.layer for n in proof.minimal.neurons} == {known(LLAVA).coordinates[0].layer}
    assert len(proof.certificate) == len(proof.minimal.neurons)
    assert {out.decision for out in proof.certificate} == {"standing"}
    assert {c.decision for c in proof.controls} == {"standing"}


def test_can_with_the_gradient_finds_them_and_chance_does_not(everything):
    part = everything.results[LLAVA]["methods"]
    assert isinstance(part, Methods)
    for method in part.methods:
        if method.group == "alpha" and method.label in ("can, alpha 0.5", "can, alpha 1"):
            assert method.expected == (4, 4) and method.minimal is not None
            assert {n.index for n in method.minimal.neurons} == seeded("gate")
        if method.cell.key.scorer == "random":
            assert method.minimal is None
            assert method.cell.k_star is None or method.cell.k_star > 100


def test_categories_are_all_there_and_transfer(everything):
    assert {r["category"] for r in rows(everything, "categories", model=LLAVA)} == set(CATEGORIES)
    transfer = rows(everything, "categories-transfer", model=LLAVA)
    assert len(transfer) == len(CATEGORIES) ** 2
    pairs = rows(everything, "categories-pairs", model=LLAVA)
    assert len(pairs) == len(CATEGORIES) * (len(CATEGORIES) - 1) // 2
    everywhere = rows(everything, "categories-neurons", model=LLAVA, categories=len(CATEGORIES))
    assert len(everywhere) >= len(seeded("gate"))


def test_vision_takes_many_times_the_language_part_and_the_connector_has_the_seeded_source(everything):
    by_place = {(r["component"], r["role"]): r for r in rows(everything, "where", model=LLAVA)}
    least = int(by_place["language", "hidden"]["k_star"])
    for place in (("vision", "hidden"), ("vision", "down"), ("connector", "hidden")):
        k_star = by_place[place]["k_star"]
        assert k_star == "" or int(k_star) >= 4 * least
    # The seeded units read a constant that the projector's bias writes into one channel: without it they write nothing.
    cells = everything.results[LLAVA]["where"].cells
    connector = next(c for c in cells if (c.key.component, c.key.role) == ("connector", "down"))
    card = json.loads((zoo.folder(LLAVA) / "card.json").read_text())
    assert [n.index for n in connector.critical] == [card["seeded"]["source_channel"]]


def test_known_coordinates_are_looked_up_and_masked(everything):
    places = rows(everything, "known", model=LLAVA)
    assert {int(r["index"]) for r in places if r["role"] == "gate"} == seeded("gate")
    assert all(int(r["rank"]) <= 4 and r["critical"] == "True" for r in places if r["role"] == "gate")
    assert [r["decision"] for r in rows(everything, "known-masked", model=LLAVA)] == ["collapsed", "collapsed"]
    assert "Nothing has been published" in everything.results[BLIP]["known"].words()[0]


def test_masking_with_the_mean_is_told_apart(everything):
    for model in everything.results:
        assert {r["mask"] for r in rows(everything, "masks-curves", model=model)} == {"zero", "mean", "class-mean"}
    assert rows(everything, "masks", model=LLAVA, role="gate", mask="zero")[0]["decision"] == "collapsed"
    assert rows(everything, "masks", model=LLAVA, role="gate", mask="mean")[0]["decision"] == "standing"


def test_attention_heads_are_places_too(everything):
    """A row for every component that has heads, and one for all together; not mixed into what all roles are."""
    for model, components in ((LLAVA, ["vision", "language", ALL]), (BLIP, ["vision", "qformer", "language", ALL])):
        heads = rows(everything, "where", model=model, role="head")
        assert [r["component"] for r in heads] == components
        assert int(heads[-1]["neurons"]) == sum(int(r["neurons"]) for r in heads[:-1])
        (together,) = rows(everything, "where", model=model, component=ALL, role=ALL)
        inside = [r for r in rows(everything, "where", model=model) if ALL not in (r["component"], r["role"])]
        assert int(together["neurons"]) == sum(int(r["neurons"]) for r in inside if r["role"] != "head")
        words = everything.results[model]["where"].words()
        assert "heads" not in words[0]
        assert any(line.startswith("k* in attention heads, each counted as one: ") for line in words)


# -- a model without a handful --------------------------------------------------------------------------------------------
def test_a_model_without_a_handful_is_reported_as_one(everything):
    assert everything.words()[0].startswith("tiny-llava has a critical handful")
    assert everything.words()[1] == "tiny-instructblip has no critical handful in any role of the language model."
    for row in rows(everything, "verdict", model=BLIP):
        assert row["handful"] == "no" and row["random_sets"] == "5" and row["random_collapsed"] == "0"
        assert row["verdict"].startswith(("No critical handful", "No collapse"))


# -- one by one, other data, bad input -------------------------------------------------------------------------------------
def folder_of_images(folder: Path, categories: dict[str, int]) -> Path:
    for name, count in categories.items():
        (folder / name).mkdir(parents=True)
        for sample in tiny_models.samples(count):
            sample.picture.save(folder / name / f"{sample.id}.png")
    return folder


SMALL = {"quick": True, "clip": "none", "max_new_tokens": 4, "samples": 4, "per_category": 2, "controls": 1}


def test_parts_by_themselves_on_a_folder(tmp_path):
    data = folder_of_images(tmp_path / "data", {"a": 3, "b": 2, "lonely": 1})
    with opened(tiny_models.llava(), tmp_path / "run", data=str(data), **SMALL) as subject:
        parts = {run.__name__: run(subject) for run in PARTS}
    assert [r["category"] for r in parts["categories"].table()] == ["a", "b"]
    assert any("lonely" in line for line in parts["judge"].words())
    for part in parts.values():  # without the model, which is closed
        assert part.words() and part.plot() is not None and part._repr_html_()


def test_data_without_categories(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for sample in tiny_models.samples(4):
        sample.picture.save(data / f"{sample.id}.png")
    with opened(tiny_models.instructblip(), tmp_path / "run", data=str(data), **SMALL) as subject:
        part = next(run for run in PARTS if run.__name__ == "categories")(subject)
    assert part.words() == ["The data has no categories, so there is nothing to compare."]
    assert part.table() == [] and part.plot() is not None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mask": "mean"}, "mask cannot be set"), ({"layers": "0"}, "layers cannot be set"),
        ({"alphas": (2.0,)}, "alpha is 2"), ({"scorers": ("magic",)}, "magic"),
        ({"role": "gates"}, "role is 'gates'"), ({"per_category": 1}, "per_category"), ({"nonsense": 1}, "nonsense"),
        ({"expect": "nobody"}, "nobody"), ({"expect": "llama-7b"}, "llama-7b"),
        ({"aggregates": ("median",)}, "aggregates.0 is 'median'"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_before_anything_is_made(tmp_path, options, says):
    with pytest.raises(OptionError, match=says), opened(tiny_models.llava(), tmp_path / "run", **{**SMALL, **options}):
        pass
    assert not (tmp_path / "run").exists()


def test_models_are_given_once(tmp_path):
    with pytest.raises(OptionError, match="each once"):
        paper([LLAVA, LLAVA], tmp_path)
    with pytest.raises(OptionError, match="at least one"):
        paper([], tmp_path)
