"""The report as text: what is in it, that every text is escaped, and how the command fails."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.core.errors import RunError
from lesion.core.metrics import MODES
from lesion.paper.part import Part
from lesion.paper.write import write
from lesion.report.assumed import OPEN, assumptions
from lesion.report.charts import KScale, overlay_chart
from lesion.report.figures import new_figure
from lesion.report.html import COMPARISON, SCRIPTS, STYLES, Run, report, to_json, write_report
from lesion.report.places import grids
from lesion.report.view import View, picture
from lesion.report.words import GONE, NEW, SAME, changes
from tests import results
from tests.results import BABBLE, save

runner = CliRunner()
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028<!--"
ARABIC = "\u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c"


class Page(HTMLParser):
    """Elements, texts and the payloads of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str, **wanted: str) -> int:
        return sum(name == tag and all(attrs.get(k) == v for k, v in wanted.items()) for name, attrs in self.tags)


def payload(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" class="payload">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def run(folder: Path, **options: Any) -> Run:
    return Run.load(save(results.result(**options), folder))


# -- what is in it -----------------------------------------------------------------------------------------------------
def test_the_answer_comes_first_and_everything_has_its_place(tmp_path):
    made = run(tmp_path, notes=["mind the gap"])
    page = report([made])
    order = [
        f"<h1>{made.result.verdict}</h1>", made.result.confidence()[0], "mind the gap", "Two stages", "What the model says",
        "Where the critical neurons are", "The first 40 of the ranking", "What speaks for it", "Minimal set",
        "What was assumed", "lesion study made-up", "Versions and conditions",
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
            judged = next(p for p in made.result.curve if p.k == k).outcomes[i]
            assert "".join(t for kind, t in data["texts"][text] if kind != GONE) == judged["answer"]
            assert MODES[mode] == judged["mode"] and clip == pytest.approx(judged["clip"], abs=0.05)


def test_the_page_needs_nothing_else_and_says_so(tmp_path):
    page = report([run(tmp_path)])
    tags = Page(page).tags
    assert not [t for t, _ in tags if t in ("link", "iframe", "object", "embed", "base", "form")]
    assert all(str(a["src"]).startswith("data:image/jpeg;base64,") for _, a in tags if "src" in a)
    assert not [a for _, a in tags if "href" in a or any(name.startswith("on") or name == "style" for name in a)]
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
    ("options", "said"),
    [
        ({"nll": results.STANDS}, "No collapse found up to k = 6"),
        ({"samples": 1}, "2 samples, 1 measured"),
        ({"clip": False, "pictures": False}, "Masking 4 of 400"),
        ({"controls": 0}, "No control sets were measured"),
        ({"experts": 4}, "language layer 1 expert 1 gate[7]"),
        ({"nll": [0.15, 0.2, 0.5, 1.0, math.nan, math.inf]}, "not finite"),
        ({"nll": [math.nan] * 6}, "not finite"),
        ({"category": lambda i: None}, "s0"),
        ({"ks": (0, 1), "nll": (0.1, 0.1)}, "k = 1"),
        ({"places": [], "top": []}, "The first 0 of the ranking"),
        ({"minimal_set": None, "minimal_verified": False}, "k* is above the minimal limit"),
        ({"options": {"model": "m", "alpha": 0.5, "later": [1, 2]}}, "default: 1.0"),
        ({"sample_list": []}, "s0"),
    ],
)  # fmt: skip
def test_every_kind_of_result_has_a_report(tmp_path, options, said):
    made = run(tmp_path, **options)
    page = report([made])
    text = Page(re.sub(r"(?s)<(script|style)\b.*?</\1>", "", page)).text
    assert said in text and made.result.verdict in text
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text)
    assert not [value for _, attrs in Page(page).tags for value in attrs.values() if value in ("nan", "inf", "None")]
    assert len(payload(page)["cards"]) == len(made.result.curve[0].outcomes)


def test_without_a_clip_model_nothing_is_said_of_it(tmp_path):
    page = report([run(tmp_path, clip=False)])
    chart = View(results.result(clip=False), tmp_path, "r1").chart
    assert [p.title for p in chart.panels] == ["Perplexity (log scale)"]
    assert '<th scope="row">CLIP score</th>' not in page


# -- hostile texts -----------------------------------------------------------------------------------------------------
def test_every_text_is_escaped(tmp_path):
    made = results.result(
        say=lambda i, k: EVIL + "x" * k, model=EVIL, verdict=EVIL, notes=[EVIL], command=EVIL, run=EVIL, known=EVIL,
        scorer=EVIL, conditions={EVIL: EVIL}, options={"prompt": EVIL, "category": EVIL},
    )  # fmt: skip
    for entry in made.sample_list:
        entry.category, entry.prompt = f"category{EVIL}", f"prompt{EVIL}"
    for neuron in (*made.top, *(made.minimal_set or [])):
        neuron.path, neuron.component = EVIL, EVIL
    for place in made.places:
        place.component = EVIL
    for control in made.controls:
        control.kind = EVIL
    page = report([Run(made, tmp_path), Run(made, tmp_path)])
    found = Page(page)
    assert found.count("script") == 3, "two payloads and the page's own"
    assert found.count("img") == 0 and "alert(1)" in found.text
    assert "<!--" not in page
    data = payload(page)
    assert data["texts"][data["cards"][0][0][0]] == [[SAME, EVIL]]


def test_json_in_the_page_has_none_of_the_characters_that_end_it():
    text = to_json({EVIL: EVIL})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {EVIL: EVIL}
    with pytest.raises(ValueError):
        to_json(math.nan)


def test_right_to_left_and_control_characters_stay_where_they_are(tmp_path):
    page = report([run(tmp_path, say=lambda i, k: ARABIC if k else "\x00\x1b[31m red")])
    assert "\x00" not in page and "\x1b" not in page and "\u2400\u241b[31m red" in page
    assert re.search(rf'<p class="says" dir="auto">(<ins>)?{ARABIC[:5]}', page)


def test_long_answers_are_folded_and_whole(tmp_path):
    long = "endless words " * 720
    page = report([run(tmp_path, say=lambda i, k: long if i == 1 and k else "short")])
    assert len(long) > 10_000 and Page(page).count("button", **{"class": "unfold"}) == 1
    assert "Show all (10,080 characters at most)" in page
    assert long.strip() in unescape(page)


def test_pictures_outside_the_run_are_not_read(tmp_path):
    folder = save(results.result(), tmp_path / "run")
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"\xff\xd8secret")
    (folder / "pictures" / "text.jpg").write_text("no JPEG")
    (folder / "pictures" / "link.jpg").symlink_to(secret)
    assert (picture(folder, "pictures/0.jpg") or "").startswith("data:image/jpeg;base64,/9j/")
    for name in (
        "../secret.jpg", "pictures/../../secret.jpg", str(secret), "pictures/text.jpg", "pictures/gone.jpg", "pictures",
        "pictures/link.jpg", "pictures/\x00.jpg", "result.json", None,
    ):  # fmt: skip
        assert picture(folder, name) is None, name


# -- words -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("intact", "answer", "expected"),
    [
        ("a red dog", "a red dog", [(SAME, "a red dog")]),
        ("a red dog", "a blue dog", [(SAME, "a "), (NEW, "blue"), (SAME, " "), (SAME, "dog")]),
        ("a small red dog", "a red dog", [(SAME, "a "), (GONE, "small "), (SAME, "red dog")]),
        ("a dog.", "a dog,", [(SAME, "a dog"), (NEW, ",")]),
        ("\u4e00\u53ea\u72d7", "\u4e00\u53ea\u732b", [(SAME, "\u4e00\u53ea"), (NEW, "\u732b")]),
        ("a dog", "", [(GONE, "a dog")]),
        ("a dog on a mat", "a dog", [(SAME, "a dog"), (GONE, " on a mat")]),
        ("", "a dog", [(NEW, "a dog")]),
        ("", "", []),
        ("a", "  \n", [(SAME, "  \n")]),
    ],
)
def test_changed_words_are_found(intact, answer, expected):
    assert changes(intact, answer) == expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_pieces_are_the_whole_answer(intact, answer):
    pieces = changes(intact, answer)
    assert "".join(text for kind, text in pieces if kind != GONE) == answer
    assert all(text for _, text in pieces)


def test_long_answers_are_compared_in_no_time():
    start = time.process_time()
    changes("a b c d e f " * 1000, "a " * 6000)
    changes(" ".join(map(str, range(3000))), " ".join(map(str, range(3000, 0, -1))))
    assert time.process_time() - start < 3


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
    assert "none up to 6" in text and "3 studies side by side" in text and "1.19 → 56" in text and "4 (1 %)" in text
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids)), "ids are the page's, not the study's"


def test_curves_over_each_other_share_their_axes():
    one, two = results.result().read_curve(), results.result(ks=(0, 1, 64), nll=(0.1, 0.1, 0.1)).read_curve()
    chart = overlay_chart([("one", one), ("two", two)])
    assert [line.name for line in chart.panels[0].lines] == ["one", "two"]
    at = {dot.says.split(":")[0]: dot.x for line in chart.panels[0].lines for dot in line.dots}
    assert at["k = 0"] < at["k = 1"] < at["k = 6"] < at["k = 64"]


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
        return [{"k": i, "said": EVIL, "evaluation": "a key"} for i in range(30)]

    def more_tables(self) -> dict[str, Any]:
        return {"more": [{"x": None}], "none": []}

    def plot(self):
        return new_figure()[0]


def test_the_papers_summary_as_a_page(tmp_path):
    write(tmp_path, {"m/<b>": {"verdict": Small()}}, {"m/<b>": []}, {})
    page = (tmp_path / "summary.html").read_text()
    found = Page(page)
    assert found.count("script") == 1 and found.count("h2") == 1 and found.count("table") == 2
    assert "a key" not in page and "6 more rows: tables/verdict.csv" in page
    assert page.count("data:image/svg+xml;base64,") == 1 and "Content-Security-Policy" in page


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command_writes_the_report(tmp_path, monkeypatch):
    one, two = (save(results.result(model=m), tmp_path / m) for m in ("one", "two"))
    said = runner.invoke(app, ["report", str(one)])
    assert said.exit_code == 0 and said.stdout.strip() == str(one / "report.html")
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
        said = runner.invoke(app, ["report", *map(str, arguments)])
        lines = said.stderr.splitlines()
        assert said.exit_code == 2 and len(lines) == 1 and lines[0].startswith("lesion: ") and message in lines[0], said.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "empty", "good", "old"], "nothing half-written stays"
    with pytest.raises(RunError):
        write_report([Run.load(good)], tmp_path / "no" / "x.html")


def test_a_report_needs_no_torch_and_lesion_no_templates():
    code = "import sys, lesion; print('jinja2' in sys.modules); import lesion.report.html; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False"]


def test_babble_is_shown_beside_the_intact_answer_without_scripts(tmp_path):
    """Paper and readers without scripts have the intact answer and the one at k*."""
    page = re.sub(r"(?s)<script.*?</script>", "", report([run(tmp_path)]))
    assert page.count('<span class="which">k* = 4</span>') == 6 == page.count('<div class="was">')
    assert Page(page).text.count(BABBLE) == 7, "on every card, and beside the verdict"
