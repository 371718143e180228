"""``lesion paper`` on the embedded models: one quick run, and what its tables must say and be made from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from lesion import zoo
from lesion.ablation.evaluator import Evaluator
from lesion.core.criterion import detect_collapse
from lesion.core.curve import Curve, Evaluation
from lesion.core.errors import OptionError, RunError
from lesion.paper import Paper, opened, paper
from lesion.paper.methods import Methods
from lesion.paper.run import PARTS
from lesion.study.published import known
from lesion.study.rundir import EVALUATIONS, RunDirectory
from lesion.zoo.scenes import CATEGORIES
from tests import tiny_models

NAMES = ["where", "stages", "modes", "categories", "methods", "masks", "luck", "stability", "verdict", "known"]
LLAVA, BLIP = "tiny-llava", "tiny-instructblip"


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Paper:
    return paper(out=tmp_path_factory.mktemp("paper") / "out", quick=True)


def rows(found: Paper, table: str, **match: object) -> list[dict[str, str]]:
    with (found.out / "tables" / f"{table}.csv").open() as file:
        return [r for r in csv.DictReader(file) if all(r[name] == str(value) for name, value in match.items())]


def lines(found: Paper, model: str) -> dict[str, dict]:
    text = (found.out / model / EVALUATIONS).read_text()
    return {entry["key"]: entry for entry in map(json.loads, text.splitlines())}


# -- what it leaves behind ---------------------------------------------------------------------------------------------
@pytest.mark.timeout(1800)  # the fixture: 3 minutes on two quiet cores
def test_every_part_is_there_for_every_model(found):
    assert list(found.results) == [LLAVA, BLIP]
    summary = (found.out / "summary.md").read_text()
    assert "<h1>What was found</h1>" in (found.out / "summary.html").read_text()
    for model, parts in found.results.items():
        assert list(parts) == NAMES
        for part in parts.values():
            assert part.words() and part.title in summary
            assert all(line in summary for line in part.words())
            for kind in ("svg", "png"):
                assert (found.out / "figures" / f"{part.name}-{model}.{kind}").stat().st_size > 2000
    for name in NAMES:
        assert {r["model"] for r in rows(found, name)} <= {LLAVA, BLIP}
        assert (found.out / "tables" / f"{name}.md").exists()
    assert yaml.safe_load((found.out / "paper.yaml").read_text())["plan"]["per_category"] == 4


def test_a_notebook_shows_each_part(found):
    for part in found.results[LLAVA].values():
        shown = part._repr_html_()
        assert shown.startswith("<h3>") and "data:image/png;base64," in shown and part.words()[0][:10] in shown


def test_a_second_call_measures_nothing_again(found, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr(Evaluator, "_batch", never)
    before = {model: (found.out / model / EVALUATIONS).read_bytes() for model in found.results}
    again = paper(out=found.out, quick=True)
    assert again.table("where") == found.table("where") and again.words() == found.words()
    assert {model: (found.out / model / EVALUATIONS).read_bytes() for model in found.results} == before


def test_another_question_does_not_go_into_the_same_folder(found):
    with pytest.raises(RunError, match="another"):
        paper(out=found.out, quick=True, prompt="What is it?")


# -- every number has a line -------------------------------------------------------------------------------------------
def test_every_row_names_lines_that_were_measured(found):
    curves = {(r["model"], r["curve"]) for r in rows(found, "curves")}
    measured = {model: lines(found, model) for model in found.results}
    tables = sorted((found.out / "tables").glob("*.csv"))
    assert len(tables) > len(NAMES)
    checked = 0
    for path in tables:
        for row in rows(found, path.stem):
            if row.get("curve"):
                assert (row["model"], row["curve"]) in curves, path
                checked += 1
            for column in ("evaluation", "intact_evaluation"):
                if row.get(column):
                    assert row[column] in measured[row["model"]], path
                    checked += 1
    assert checked > 500


def test_tables_can_be_recomputed_from_the_lines(found):
    """k*, its interval, stage 1 and the perplexities of ``where`` and ``methods``, from the samples' values alone."""
    for model in found.results:
        with RunDirectory.open(found.out / model, _options(found, model)) as run:
            for table in ("where", "methods", "categories", "stability"):
                for row in rows(found, table, model=model):
                    points = rows(found, "curves", model=model, curve=row["curve"])
                    curve = Curve(
                        [Evaluation(int(p["k"]), tuple(run.evaluation(p["evaluation"]))) for p in points],
                        _chance(found, model, row["curve"]),
                    )
                    for at, point in zip(points, curve, strict=True):
                        nll = point.metrics["nll_reference"]
                        assert at["nll_reference"] == ("" if nll is None else f"{nll:.9g}")
                    collapse = detect_collapse(curve, seed=0)
                    want = [row["stage1_k"], row["k_star"], row["k_star_low"], row["k_star_high"]]
                    got = [collapse.stage1_k, collapse.k_star, *collapse.k_star_ci]
                    assert want == ["" if value is None else str(value) for value in got], row


def _options(found: Paper, model: str):
    from lesion.study.options import StudyOptions

    return StudyOptions.from_yaml((found.out / model / "config.yaml").read_text(), model)


def _chance(found: Paper, model: str, curve: str):
    """The chance level is a property of the images and the intact answers; it is the curve's."""
    parts = found.results[model]
    for part in parts.values():
        for attribute in ("cells", "counts"):
            for cell in getattr(part, attribute, {}).values():
                if cell.name == curve:
                    return cell.curve.chance
        for attribute in ("places", "methods"):
            for entry in getattr(part, attribute, ()):
                if entry.cell.name == curve:
                    return entry.cell.curve.chance
    raise AssertionError(curve)


# -- tiny-llava, whose truth is known -----------------------------------------------------------------------------------
def seeded(role: str) -> set[int]:
    return {c.row if role == "down" else c.column for c in known(LLAVA).coordinates}


@pytest.mark.parametrize("role", ["gate", "hidden"])
def test_the_minimal_set_is_the_seeded_one(found, role):
    proof = next(p for p in found.results[LLAVA]["luck"].proofs if p.role == role)
    assert proof.minimal is not None and proof.minimal.verified
    assert {n.index for n in proof.minimal.neurons} == seeded(role)
    assert {n.site.layer for n in proof.minimal.neurons} == {known(LLAVA).coordinates[0].layer}
    assert len(proof.certificate) == len(proof.minimal.neurons)
    assert not any(out.collapsed for out in proof.certificate)
    assert not any(c.collapsed for c in proof.controls)


def test_can_with_the_gradient_finds_them_and_chance_does_not(found):
    part = found.results[LLAVA]["methods"]
    assert isinstance(part, Methods)
    for method in part.methods:
        if method.group == "alpha" and method.label in ("can, alpha 0.5", "can, alpha 1"):
            assert method.expected == (4, 4) and method.minimal is not None
            assert {n.index for n in method.minimal.neurons} == seeded("gate")
        if method.label == "random":
            assert method.minimal is None
            assert method.cell.collapse.k_star is None or method.cell.collapse.k_star > 100


def test_categories_are_all_there_and_transfer(found):
    assert {r["category"] for r in rows(found, "categories", model=LLAVA)} == set(CATEGORIES)
    transfer = rows(found, "categories-transfer", model=LLAVA)
    assert len(transfer) == len(CATEGORIES) ** 2
    pairs = rows(found, "categories-pairs", model=LLAVA)
    assert len(pairs) == len(CATEGORIES) * (len(CATEGORIES) - 1) // 2
    everywhere = rows(found, "categories-neurons", model=LLAVA, categories=len(CATEGORIES))
    assert len(everywhere) >= len(seeded("gate"))


def test_vision_takes_many_times_the_language_part_and_the_connector_has_the_seeded_source(found):
    by_place = {(r["component"], r["role"]): r for r in rows(found, "where", model=LLAVA)}
    least = int(by_place["language", "hidden"]["k_star"])
    for place in (("vision", "hidden"), ("vision", "down"), ("connector", "hidden")):
        k_star = by_place[place]["k_star"]
        assert k_star == "" or int(k_star) >= 4 * least
    # The seeded units read a constant that the projector's bias writes into one channel: without it they write nothing.
    connector = next(p for p in found.results[LLAVA]["where"].places if (p.component, p.role) == ("connector", "down"))
    card = json.loads((zoo.folder(LLAVA) / "card.json").read_text())
    assert [n.index for n in connector.cell.critical] == [card["seeded"]["source_channel"]]


def test_known_coordinates_are_looked_up_and_masked(found):
    places = rows(found, "known", model=LLAVA)
    assert {int(r["index"]) for r in places if r["role"] == "gate"} == seeded("gate")
    assert all(int(r["rank"]) <= 4 and r["critical"] == "True" for r in places if r["role"] == "gate")
    assert [r["collapsed"] for r in rows(found, "known-masked", model=LLAVA)] == ["True", "True"]
    assert "Nothing has been published" in found.results[BLIP]["known"].words()[0]


def test_masking_with_the_mean_is_told_apart(found):
    for model in found.results:
        assert {r["value"] for r in rows(found, "masks-curves", model=model)} == {"zero", "mean", "class-mean"}
    assert rows(found, "masks", model=LLAVA, role="gate", value="zero")[0]["collapsed"] == "True"


# -- a model without a handful --------------------------------------------------------------------------------------------
def test_a_model_without_a_handful_is_reported_as_one(found):
    assert found.words()[0].startswith("tiny-llava has a critical handful")
    assert found.words()[1] == "tiny-instructblip has no critical handful in any role of the language model."
    for row in rows(found, "verdict", model=BLIP):
        assert row["handful"] == "False" and row["verdict"].startswith(("No critical handful", "No collapse"))


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
    ("given", "says"),
    [
        ({"mask": "mean"}, "mask cannot be set"), ({"alphas": (2.0,)}, "alpha is 2"), ({"scorers": ("magic",)}, "magic"),
        ({"role": "gates"}, "role is 'gates'"), ({"per_category": 1}, "per_category"), ({"nonsense": 1}, "nonsense"),
        ({"expect": "nobody"}, "nobody"), ({"expect": "llama-7b"}, "llama-7b"),
        ({"aggregates": ("median",)}, "aggregates.0 is 'median'"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_before_anything_is_made(tmp_path, given, says):
    with pytest.raises(OptionError, match=says), opened(tiny_models.llava(), tmp_path / "run", **{**SMALL, **given}):
        pass
    assert not (tmp_path / "run").exists()


def test_models_are_given_once(tmp_path):
    with pytest.raises(OptionError, match="each once"):
        paper([LLAVA, LLAVA], tmp_path)
    with pytest.raises(OptionError, match="at least one"):
        paper([], tmp_path)
