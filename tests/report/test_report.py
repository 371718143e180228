"""The report as text: what is in it, several side by side, the paper's summary, and how the command fails."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import lesion
from lesion.cli.app import app
from lesion.core.errors import RunError
from lesion.core.outcome import MODES
from lesion.paper.part import Part
from lesion.paper.write import write
from lesion.report.assumed import OPEN, assumptions
from lesion.report.charts import KScale, curve_chart, overlay_chart
from lesion.report.figures import new_figure
from lesion.report.html import COMPARISON, SCRIPTS, STYLES, Run, report, write_report
from lesion.report.places import grids
from lesion.report.view import View
from lesion.report.words import GONE
from lesion.study.result import Result
from tests import results
from tests.report.pages import Page, payload, run
from tests.results import BABBLE, save

runner = CliRunner()
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028<!--"
ARABIC = "\u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c"


# -- what is in it -----------------------------------------------------------------------------------------------------
def test_the_answer_comes_first_and_everything_has_its_place(tmp_path):
    made = run(tmp_path, notes=["mind the gap"])
    page = report([made])
    order = [
        f"<h1>{made.result.verdict}</h1>", made.result.confidence()[0], "mind the gap", "The curve", "What counts as collapse",
        "The answers at each k", "Where the critical neurons are", "Top 40 of the ranking", "Controls and minimal set",
        "Minimal set", "Options and assumptions", "lesion study made-up", "Versions and conditions",
    ]  # fmt: skip
    places = [page.find(text) for text in order]
    assert -1 not in places and places == sorted(places), list(zip(order, places, strict=True))
    assert Page(page).count("article") == 6, "one card a measured sample"
    assert page.count("data:image/jpeg") == 7, "one picture a card, one beside the answer"


def test_the_payload_has_every_answer_at_every_k(tmp_path):
    made = run(tmp_path)
    data = payload(report([made]))
    assert data["ks"] == list(results.KS) and data["start"] == data["ks"].index(made.result.k_star)
    for i, row in enumerate(data["cards"]):
        for k, (text, mode, clip) in zip(data["ks"], row, strict=True):
            outcome = next(p for p in made.result.curve if p.k == k).outcomes[i]
            assert "".join(t for kind, t in data["texts"][text] if kind != GONE) == outcome["answer"]
            assert MODES[mode] == outcome["mode"] and float(clip) == pytest.approx(outcome["clip"], abs=0.05)


def test_the_page_needs_nothing_else_and_says_so(tmp_path):
    page = report([run(tmp_path)])
    tags = Page(page).tags
    assert not [t for t, _ in tags if t in ("link", "iframe", "object", "embed", "base", "form")]
    assert all(str(a["src"]).startswith("data:image/jpeg;base64,") for _, a in tags if "src" in a)
    assert not [a for _, a in tags if any(name.startswith("on") or name == "style" for name in a)]
    links = [str(a["href"]) for _, a in tags if "href" in a]
    assert len(links) == 1 and links[0].startswith("data:application/json;base64,"), "the data that the page is made from"
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    for text in ("http:", "@import", "url("):
        assert text not in page


def test_sources_that_are_put_into_the_page_cannot_end_their_element():
    folder = Path(report.__code__.co_filename).parent / "templates"
    for name in (*STYLES, *SCRIPTS):
        text = (folder / name).read_text()
        assert "</" not in text and len(text.splitlines()) < 400, name


def test_a_large_study_stays_small(tmp_path):
    """32 measured samples with photographs as large as they get, 27 masks, long answers."""
    words = np.random.default_rng(0).permuted(np.tile(np.arange(3000), (1, 1)), axis=1)[0]
    made = results.result(
        samples=32, ks=list(range(27)), nll=[0.1] * 25 + [4.0, 5.0],
        say=lambda i, k: " ".join(f"word{words[(i * 31 + k * 7 + j) % 3000]}" for j in range(64)),
    )  # fmt: skip
    save(made, tmp_path)
    noise = np.random.default_rng(0).bytes(14_000)
    for file in (tmp_path / "pictures").iterdir():
        file.write_bytes(b"\xff\xd8" + noise)
    page = report([Run.load(tmp_path)])
    assert 1e6 < len(page.encode()) < 3e6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nll": results.STANDS}, "No collapse up to k = 6 of 400"),
        ({"samples": 1}, "2 samples, 1 measured"),
        ({"clip": False, "pictures": False}, "Masking 4 of 400"),
        ({"controls": 0}, "No control sets were measured"),
        ({"experts": 4}, "language layer 1 expert 1 gate[7]"),
        ({"nll": [0.15, 0.2, 0.5, 1.0, math.nan, math.inf]}, "not finite"),
        ({"nll": [math.nan] * 6}, "not finite"),
        ({"category": lambda i: None}, "s0"),
        ({"ks": (0, 1), "nll": (0.1, 0.1)}, "k = 1"),
        ({"places": [], "top": []}, "Top 0 of the ranking"),
        ({"minimal_set": None, "minimal_verified": False}, "k* is above the option minimal limit"),
        ({"options": {"model": "m", "alpha": 0.5, "later": [1, 2]}}, "default: 1.0"),
        ({"sample_list": []}, "s0"),
    ],
)  # fmt: skip
def test_every_kind_of_result_has_a_report(tmp_path, options, words):
    made = run(tmp_path, **options)
    page = report([made])
    text = Page(re.sub(r"(?s)<(script|style)\b.*?</\1>", "", page)).text
    assert words in text and made.result.verdict in text
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text)
    assert not [value for _, attrs in Page(page).tags for value in attrs.values() if value in ("nan", "inf", "None")]
    assert len(payload(page)["cards"]) == len(made.result.curve[0].outcomes)


def test_without_a_clip_model_nothing_is_said_of_it(tmp_path):
    page = report([run(tmp_path, clip=False)])
    chart = View(results.result(clip=False), tmp_path, "r1").chart
    assert [p.title for p in chart.panels] == ["Perplexity (log scale)"]
    assert '<th scope="row">CLIP score</th>' not in page


# -- several -----------------------------------------------------------------------------------------------------------
def test_several_runs_side_by_side(tmp_path):
    runs = [
        run(tmp_path / "a", model="first"), run(tmp_path / "b", model="second", nll=results.STANDS, clip=False),
        run(tmp_path / "c", model="first", role="down"),
    ]  # fmt: skip
    page = report(runs)
    found = Page(page)
    assert found.count("details", **{"class": "study"}) == 3 and found.count("h1") == 1
    text = found.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "none up to 6" in text and "3 studies side by side" in text and "1.191 → 55.98" in text and "4 (1 %)" in text
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids)), "ids are the page's, not the study's"


def test_curves_over_each_other_share_their_axes():
    one, two = results.result().read_curve(), results.result(ks=(0, 1, 64), nll=(0.1, 0.1, 0.1)).read_curve()
    chart = overlay_chart([("one", one), ("two", two)])
    assert [line.name for line in chart.panels[0].lines] == ["one", "two"]
    at = {dot.says.split(":")[0]: dot.x for line in chart.panels[0].lines for dot in line.dots}
    assert at["k = 0"] < at["k = 1"] < at["k = 6"] < at["k = 64"]


def test_a_stage_without_width_is_no_stage():
    made = results.result()
    collapse = dataclasses.replace(made.collapse, stage1_k=made.k_star)
    assert [span.style for span in curve_chart(made.read_curve(), made.collapse).spans] == ["stage1", "stage2"]
    assert [span.style for span in curve_chart(made.read_curve(), collapse).spans] == ["stage2"]


def test_the_axis_of_k():
    scale = KScale(1024)
    steps = np.diff([scale(k) for k in (0, 1, 2, 4, 512, 1024)])
    assert steps[0] == pytest.approx(steps[1], abs=0.2) and steps[-1] == pytest.approx(steps[2], abs=0.2)
    ticks = scale.ticks([0, *(2**i for i in range(11)), 1000], [1000])
    assert "1,000" in [name for _, name in ticks] and min(np.diff([x for x, _ in ticks])) >= 30
    assert KScale(0)(0) < KScale(1)(1)


def test_experts_are_taken_together_in_the_map():
    found = grids(results.result(experts=4).places)
    assert [g.component for g in found] == ["vision", "language"]
    cell = next(c for c in found[1].cells if (c.layer, c.role) == (0, "gate"))
    assert (cell.experts, cell.width, cell.critical) == (4, 400, 16)
    assert not next(c for c in found[0].cells if c.layer == 3).reachable


def test_assumptions_say_what_is_not_default_and_what_is_open():
    rows = assumptions({**results.result().options, "alpha": 0.5, "seed": 3})
    assert [(r.name, r.value, r.default) for r in rows[:3]] == [
        ("alpha", "0.5", "1.0"), ("seed", "3", "0"), ("data", "scenes", None),
    ]  # fmt: skip
    assert set(OPEN) <= {r.name for r in rows}, "an option was renamed"


# -- the paper's summary -----------------------------------------------------------------------------------------------
class Small(Part):
    name, title, model = "verdict", "Handful <or> none", "m"

    def words(self) -> list[str]:
        return [f"It has {EVIL}."]

    def table(self) -> list[dict[str, Any]]:
        return [{"k": i, "text": EVIL, "evaluation": "a key"} for i in range(30)]

    def more_tables(self) -> dict[str, Any]:
        return {"more": [{"x": None}], "none": []}

    def plot(self):
        return new_figure()[0]


def test_the_papers_summary_as_a_page(tmp_path):
    write(tmp_path, {"m/<b>": {"verdict": Small()}}, {}, {})
    page = (tmp_path / "summary.html").read_text()
    found = Page(page)
    assert found.count("script") == 1 and found.count("h2") == 1 and found.count("table") == 2
    assert "a key" not in page and "6 more rows: tables/verdict.csv" in page
    assert page.count("data:image/svg+xml;base64,") == 1 and "Content-Security-Policy" in page


# -- from Python -------------------------------------------------------------------------------------------------------
def test_a_report_is_written_from_a_folder_or_a_result(tmp_path, monkeypatch):
    folder = save(results.result(run=str(tmp_path / "run")), tmp_path / "run")
    page = report([Run.load(folder)])
    figures = {"curve.svg", "curve.png", "map.svg", "map.png"}
    for source in (folder, str(folder), Run.load(folder), Result.load(folder), [folder]):
        assert lesion.write_report(source) == folder / "report.html"
        assert (folder / "report.html").read_text() == page and {p.name for p in (folder / "figures").iterdir()} == figures
        (folder / "report.html").unlink()
        shutil.rmtree(folder / "figures")
    assert lesion.write_report(folder, tmp_path / "elsewhere.html").read_text() == page
    assert not (folder / "figures").exists(), "a page of its own needs no files beside it"
    monkeypatch.chdir(tmp_path)
    assert lesion.write_report([folder, folder]) == Path(COMPARISON) and Path(COMPARISON).exists()
    assert not (folder / "figures").exists()


def test_a_report_of_a_run_that_is_gone_says_so(tmp_path):
    made = results.result(run=str(tmp_path / "file" / "run"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match="cannot be written"):
        lesion.write_report(made)
    with pytest.raises(RunError, match="cannot be read"):
        lesion.write_report(tmp_path / "nowhere")


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command_writes_the_report(tmp_path, monkeypatch):
    one, two = (save(results.result(model=m), tmp_path / m) for m in ("one", "two"))
    outcome = runner.invoke(app, ["report", str(one)])
    assert outcome.exit_code == 0 and outcome.stdout.strip() == str(one / "report.html")
    assert (one / "report.html").read_text() == report([Run.load(one)])
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, ["report", str(one), str(two / "result.json")]).stdout.strip() == COMPARISON
    assert (tmp_path / COMPARISON).read_text() == report([Run.load(one), Run.load(two)])
    assert runner.invoke(app, ["report", str(two), "--out", "x.html"]).exit_code == 0 and (tmp_path / "x.html").exists()


def test_what_the_command_cannot_do_is_one_line(tmp_path):
    good = save(results.result(), tmp_path / "good")
    (tmp_path / "old").mkdir()
    old = json.loads((good / "result.json").read_text())
    del old["places"]
    (tmp_path / "old" / "result.json").write_text(json.dumps(old))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([tmp_path / "nowhere"], "cannot be read (No such file or directory)"),
        ([tmp_path / "empty"], "expected the run directory of a finished study"),
        ([tmp_path / "old"], "places: Field required"), ([tmp_path / "broken"], "no result that this version of lesion reads"),
        ([good, "--out", tmp_path / "no" / "x.html"], "cannot be written"),
        ([good, "--out", tmp_path / "good"], "cannot be written"),
    ):  # fmt: skip
        outcome = runner.invoke(app, ["report", *map(str, arguments)])
        lines = outcome.stderr.splitlines()
        assert outcome.exit_code == 2 and len(lines) == 1 and lines[0].startswith("lesion: ") and message in lines[0], lines
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "empty", "good", "old"], "nothing half-written stays"
    with pytest.raises(RunError):
        write_report([Run.load(good)], tmp_path / "no" / "x.html")


def test_a_report_needs_no_torch_and_lesion_no_templates():
    code = "import sys, lesion; print('jinja2' in sys.modules); import lesion.report.html; print('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert process.stdout.split() == ["False", "False"]


def test_babble_is_shown_beside_the_intact_answer_without_scripts(tmp_path):
    """Paper and readers without scripts have the intact answer and the one at k*."""
    page = re.sub(r"(?s)<script.*?</script>", "", report([run(tmp_path)]))
    assert page.count('<span class="which">k* = 4</span>') == 6 == page.count('<div class="was">')
    assert Page(page).text.count(BABBLE) == 7, "on every card, and beside the verdict"
