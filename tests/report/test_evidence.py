"""The report's evidence: the criterion, complaints, controls, and what was not measured."""

from __future__ import annotations

import re
from pathlib import Path

from lesion.core.criterion import CRITERIA
from lesion.core.metrics import METRICS
from lesion.core.modes import COLOURS, MEANINGS
from lesion.report.criteria import in_words
from lesion.report.html import STYLES, Run, compare, report
from lesion.report.view import View
from lesion.study.result import CriterionEntry
from tests import results
from tests.report.pages import Page, payload, plain, run


def criteria_table(page: str) -> list[list[str]]:
    table = re.search(r'(?s)<table class="criteria">.*?<tbody>(.*?)</tbody>', page)
    assert table is not None
    return [
        [plain(cell) for cell in re.findall(r"(?s)<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"(?s)<tr[^>]*>(.*?)</tr>", table[1])
    ]


def test_the_criterion_is_given_in_words_with_the_k_of_every_other(tmp_path):
    page = report([run(tmp_path)])
    words = "perplexity of the intact answers at least 10 times the intact model's and CLIP score at chance (at most 10"
    assert words in plain(page)
    rows = criteria_table(page)
    assert [row[0] for row in rows] == ["paper this study's", "perplexity", "degeneration", "task"]
    assert [row[2] for row in rows] == ["4", "4", "3", "cannot tell"]
    assert rows[3][3] == "yes/no accuracy: not measured" and rows[0][3] == ""


def test_the_study_s_own_criterion_comes_first_even_where_no_table_knows_it(tmp_path):
    own = {"name": "silence", "about": "every answer is empty", "function": "here.silence"}
    rows = criteria_table(report([run(tmp_path, criterion=own)]))
    assert rows[0][:3] == ["silence this study's", "every answer is empty", "4"] and len(rows) == 5
    assert not any("this study's" in row[0] for row in rows[1:])


def test_a_criterion_that_needs_a_metric_of_someone_else_is_shown_by_its_own_words():
    condition = {"metric": "elsewhere", "test": "at-least", "limit": 0.5}
    assert in_words({"name": "own", "about": "as elsewhere", "conditions": [condition]}) == "as elsewhere"
    assert in_words({}) == "not recorded"


def test_what_is_left_out_of_the_criterion_is_said_with_its_reason(tmp_path):
    left_out = {"clip_score": "at chance"}
    text = plain(report([run(tmp_path, left_out=left_out)]))
    assert "Part of it decides nothing here: CLIP score: the intact model is at chance itself." in text
    entries = [
        CriterionEntry(name="paper", about="a", k_star=4, undecided=True, left_out=left_out),
        CriterionEntry(name="perplexity", about="b", k_star=None, undecided=False, left_out={}),
        CriterionEntry(name="degeneration", about="c", k_star=None, undecided=True, left_out={}),
    ]
    rows = criteria_table(report([run(tmp_path, criteria=entries)]))
    assert [row[2] for row in rows] == ["4, but undecided at another k", "none up to 6", "undecided"]


def test_undecided_points_are_called_undecided(tmp_path):
    made = run(tmp_path, undecided=[3], samples_needed=24)
    view, page = View(made.result, tmp_path, "r1"), report([made])
    assert [row["stage"] for row in view.curve_rows()] == [
        "intact", "stage 1: degraded", "stage 1: degraded", "undecided", "collapsed", "collapsed",
    ]  # fmt: skip
    sentence = "The 6 measured samples do not decide at k = 3. About 24 would decide the first of these."
    assert plain(page).count(sentence) == 1
    many = View(run(tmp_path, undecided=[1, 2, 3]).result, tmp_path, "r1").undecided
    assert many == "The 6 measured samples do not decide at 3 values of k, the smallest 1."
    assert payload(page)["stages"][3] == "undecided" and "k = 3: undecided" in page
    other = plain(report([run(tmp_path, criteria=[])])).replace(str(tmp_path), "")
    assert "undecided" not in other, "nothing is undecided in the other"


def test_with_few_samples_nothing_is_said_of_noise_and_intervals(tmp_path):
    made = run(tmp_path, samples=1, clip=False)
    text = plain(report([made]))
    assert "k* = 4; no interval: 1 measured sample is too few" in text
    assert "Stage 1 (worse than intact beyond sampling noise): not tested: 1 measured sample is too few" in text
    stages = {row["stage"] for row in View(made.result, tmp_path, "r1").curve_rows()}
    assert not stages & {"stage 1: degraded", "no change beyond noise"}


def test_an_interval_without_an_end_is_put_into_words(tmp_path):
    made = run(tmp_path, k_star_ci=(4, None))
    both = plain(report([made, made]))
    assert both.count("95 % interval from 4 up") >= 3 and not re.search(r"interval[^.]*(to none|none to|to –)", both)


def test_complaints_stand_beside_the_verdict_and_once(tmp_path):
    complaint = "it gives the same answer to all 6 samples"
    note = f"the intact model does not work on this data: {complaint}"
    page = report([run(tmp_path, complaints=[complaint], notes=[note, "mind the gap"])])
    text = plain(page)
    assert text.index("made-up does not work on this data even intact") < text.index(f"does not work on this data {complaint}")
    assert text.index(f"does not work on this data {complaint}") < text.index("k* = 4;")
    assert Page(page).count("div", **{"class": "complaints", "role": "note"}) == 1
    assert page.count(f'<li dir="auto">{complaint}</li>') == 1 and "mind the gap" in text
    assert note not in text, "a note that only repeats a complaint is left out"
    assert "complaints" not in {attrs.get("class") for _, attrs in Page(report([run(tmp_path)])).tags}


def test_a_score_that_was_not_measured_is_not_measured(tmp_path):
    made = run(tmp_path, clip=False)
    text = plain(report([made, made]))
    assert "CLIP score: not measured" in text and "CLIP score not finite" not in text
    column = '<th scope="col">by chance</th>'
    assert column not in report([made]) and column in report([run(tmp_path / "with")]), "no column without a value"
    view = View(made.result, tmp_path, "r1")
    row, curve = compare([view])[0], view.curve_rows()
    assert row["CLIP score"] == row["CLIP score by chance"] == "not measured"
    assert {point["CLIP score"] for point in curve} == {"not measured"}
    assert "CLIP score" not in [label for label, *_ in view.before_after()], "the short table has what was measured"
    assert "yes/no accuracy" not in curve[0] and not any(name.startswith("NLL") for name in curve[0])


def test_metrics_have_the_names_and_formats_of_the_table_of_metrics(tmp_path):
    made = run(tmp_path)
    rows = View(made.result, tmp_path, "r1").before_after()
    labels = [m.label for m in METRICS.values() if m.headline]
    assert [label for label, *_ in rows] == labels
    clip = METRICS["clip_score"]
    before, after = made.result.baseline["clip_score"], made.result.curve[4].metrics["clip_score"]
    assert rows[labels.index("CLIP score")] == ("CLIP score", clip.show(before), clip.show(after), "10.0")


def test_every_mode_has_one_colour_and_a_meaning(tmp_path):
    page = report([run(tmp_path)])
    for mode, colour in COLOURS.items():
        assert page.count(f"--mode-{mode}: {colour};") == 1 and page.count(f"var(--mode-{mode})") == 1
        assert f"{mode} {MEANINGS[mode]}" in plain(page)
    style = "".join((Path(report.__code__.co_filename).parent / "templates" / name).read_text() for name in STYLES)
    assert not [colour for colour in COLOURS.values() if re.search(rf"--mode[^;]*{colour}", style, re.IGNORECASE)]


def test_controls_that_the_samples_do_not_decide_are_no_standing_ones(tmp_path):
    made = results.result()
    drawn = [c for c in made.controls if c.kind == "random"]
    drawn[0].collapsed, drawn[1].collapsed = None, True
    view = View(made, tmp_path, "r1")
    kind = view.kinds()[0]
    group = kind.group
    assert (group.kind, group.drawn, group.fallen, group.undecided, kind.highest) == ("random", 3, 1, 1, "1.4")
    drawing = view.strip()
    assert drawing is not None
    assert [m.style for m in drawing.rows[1].marks] == ["undecided", "fallen", "standing"]
    assert drawing.styles == ["standing", "fallen", "undecided"]
    assert '<th scope="col" class="n">undecided</th>' in report([Run(made, tmp_path)])


def test_the_line_among_the_controls_is_the_criterion_s(tmp_path):
    limits = {}
    for name in ("perplexity", "degeneration"):
        drawing = View(results.result(criterion=CRITERIA[name].model_dump()), tmp_path, "r1").strip()
        assert drawing is not None
        limits[name] = drawing.limit
    assert limits["perplexity"][1] == "10 × intact" and limits["degeneration"] is None
    milder = CRITERIA["perplexity"].model_dump()
    milder["conditions"][0]["limit"] = 0.5
    drawing = View(results.result(criterion=milder), tmp_path, "r1").strip()
    assert drawing is not None and drawing.limit is not None
    assert drawing.limit[1] == "3.16 × intact" and drawing.limit[0] < limits["perplexity"][0]


def test_a_ranking_without_scores_has_a_report(tmp_path):
    made = results.result()
    for neuron in made.top:
        neuron.importance = neuron.consistency = None
    page = report([Run(made, tmp_path)])
    assert page.count('data-value=""') == 80 and "None" not in plain(page)
