"""Texts in the report: every one is escaped, and changed words are marked."""

from __future__ import annotations

import json
import math
import re
import time
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion.report.html import Run, report, to_json
from lesion.report.view import picture
from lesion.report.words import GONE, NEW, SAME, changes
from lesion.study.result import CriterionEntry
from tests import results
from tests.report.pages import Page, payload, run
from tests.results import save

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028<!--"
ARABIC = "\u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c"


def test_every_text_is_escaped(tmp_path):
    made = results.result(
        say=lambda i, k: EVIL + "x" * k, model=EVIL, verdict=EVIL, notes=[EVIL], command=EVIL, run=EVIL, known=EVIL,
        scorer=EVIL, conditions={EVIL: EVIL}, options={"prompt": EVIL, "category": EVIL}, complaints=[EVIL],
        criterion={"name": EVIL, "about": EVIL}, left_out={EVIL: EVIL},
        criteria=[CriterionEntry(name=EVIL + "2", about=EVIL, k_star=None, undecided=True, left_out={EVIL: EVIL})],
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
    assert "Show all (up to 10,080 characters)" in page
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
