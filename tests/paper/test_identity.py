"""What a curve is does not depend on what anything is called: categories named as methods and masks are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lesion.data.samples import digest
from lesion.paper import categories, masks, methods, opened, paper, stability, where
from lesion.paper.cell import unused_name
from lesion.paper.subject import Subject
from tests import tiny_models

SMALL = {"clip": "none", "max_new_tokens": 4, "samples": 4, "per_category": 2, "controls": 1, "quick": True}
NAMES = {"random": "random", "can, alpha 0.5": "can, alpha 0.5", "mean mask": "mean", "ranked on 1 image": "1"}
"""Category -> what else of the experiments has the same label."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of every category, each another one."""
    folder, images = tmp_path_factory.mktemp("data"), iter(tiny_models.samples(3 * len(NAMES)))
    for name in NAMES:
        (folder / name).mkdir()
        for _ in range(3):
            sample = next(images)
            sample.picture.save(folder / name / f"{sample.id}.png")
    return folder


def others(subject: Subject) -> dict[str, Any]:
    """Cells that have a category's label by chance."""
    cells = {m.label: m.cell for m in methods(subject).methods if m.label in NAMES}
    cells["mean mask"] = masks(subject).cells["mean"]
    cells["ranked on 1 image"] = stability(subject).counts[1]
    return cells


@pytest.mark.parametrize("first", ["categories", "others"])
def test_a_category_is_not_the_method_that_is_called_the_same(tmp_path, data, first):
    with opened(tiny_models.llava(), tmp_path / "run", data=str(data), **SMALL) as subject:
        if first == "others":
            others(subject)
        by_category = categories(subject).cells
        by_method = others(subject)
        assert set(by_category) == set(by_method) == set(NAMES)
        for name, cell in by_category.items():
            ranked, measured = subject.categories[name]
            same, key = by_method[name], cell.key
            assert cell.label == same.label, "the labels are meant to collide"
            assert cell is not same and key != same.key and cell.name != same.name
            assert (key.scorer, key.intervention) == ("can", "zero")
            assert (key.ranked_on, key.measured_on) == (digest(ranked), digest(measured))
            assert [o.id for o in cell.curve.intact.outcomes] == [s.id for s in measured]
            assert cell.ranking.name == "can" and cell.ranking.digest != same.ranking.digest
        assert by_method["random"].key.scorer == by_method["random"].ranking.name == "random"
        assert by_method["can, alpha 0.5"].key.options.alpha == 0.5
        assert by_method["mean mask"].key.intervention == "mean"
        names = [cell.name for cell in subject.cells.values()]
        assert len(names) == len(set(names))


def test_the_same_question_is_asked_once(tmp_path, data):
    with opened(tiny_models.llava(), tmp_path / "run", data=str(data), **SMALL) as subject:
        plain = next(c for c in where(subject).cells if (c.key.component, c.key.role) == ("language", "gate"))
        usual = subject.session.options.scoring()
        again = subject.cell("language", "gate", "another label", "can", usual, subject.ranked, subject.measured)
        assert again is plain and plain.name == plain.label == "language gate"
        assert stability(subject).counts[len(subject.ranked)] is masks(subject).cells["zero"] is plain


def test_tables_tell_curves_of_one_label_apart(tmp_path, data):
    everything = paper([tiny_models.llava()], tmp_path / "out", data=str(data), **SMALL)
    (cells,), (points,) = everything.cells.values(), everything.curves.values()
    twice = [row for row in cells if row["label"] == "language gate, random"]
    assert [row["curve"] for row in twice] == ["language gate, random", "language gate, random (2)"]
    assert {row["scorer"] for row in twice} == {"can", "random"}
    ks = [(row["curve"], row["k"]) for row in points]
    assert len(ks) == len(set(ks)), "a curve has each k once"
    in_tables = {name: {r[key]: r["curve"] for r in everything.table(name)} for name, key in
                 (("categories", "category"), ("methods", "method"))}  # fmt: skip
    assert {in_tables[name]["random"] for name in in_tables} == {row["curve"] for row in twice}


def test_a_name_that_looks_like_a_numbered_one_is_passed_over():
    assert unused_name("a", ()) == "a"
    assert unused_name("a", {"a", "a (2)"}) == "a (3)"
