"""The report in a browser: what a reader does with it, by mouse and by keyboard, and what an accessibility checker says.

Needs a Chromium that is installed; its path may be given as CHROMIUM. Nothing is downloaded.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lesion.core.modes import COLOURS, MEANINGS
from lesion.report.html import Run, page, report
from tests import results
from tests.results import BABBLE, save

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install 'lesion[test]'")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (looked for chromium, chromium-browser, google-chrome and $CHROMIUM)"
)
EVIL = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
ANSWER = ".card:not([hidden]) .at-k .says"


class Reader:
    """A page that fails the test when something goes wrong behind it."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(file.as_uri())

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []
        foreign = [url for url in self.requests if not url.startswith(("file:", "data:", "about:"))]
        assert foreign == [] and sum(url.startswith("file:") for url in self.requests) == 1

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def box(self, selector: str) -> dict[str, float]:
        """Where the first such element is, once it is on the screen."""
        element = self.page.locator(selector).first
        element.scroll_into_view_if_needed()
        return element.bounding_box()

    def value_text(self) -> str:
        return self.page.locator("input[type=range]").first.get_attribute("aria-valuetext")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        # The sandbox of Chromium cannot be had by root, nor in most containers; the pages are our own.
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of several kinds."""
    folder = tmp_path_factory.mktemp("reports")

    def say(sample: int, k: int) -> str:
        return EVIL if k == 0 else f"{'long ' * 2100}{EVIL}" if sample == 1 else f"\u0645\u0631 {EVIL} {k}"

    made = {
        "one": [results.result(known="made-up (nowhere)")],
        "stands": [results.result(nll=results.STANDS, clip=False, pictures=False)],
        "complaints": [
            results.result(complaints=["it gives the same answer to all 6 samples"], undecided=[3], samples_needed=24)
        ],
        "evil": [results.result(say=say, model=EVIL, verdict=EVIL, notes=[EVIL], category=lambda i: f"{EVIL}{i}")],
        "several": [
            results.result(model="first"),
            results.result(model="second", nll=[0.1, 0.2, 0.5, 1, math.nan, math.nan], experts=4),
        ],
    }
    paths = {}
    for name, studies in made.items():
        runs = [Run.load(save(result, folder / f"{name}-{i}")) for i, result in enumerate(studies)]
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(report(runs), encoding="utf-8")
    return paths


@pytest.fixture
def read(browser: Any, files: dict[str, Path]) -> Iterator[Any]:
    opened: list[Reader] = []

    def open_page(name: str, suffix: str = "", **options: Any) -> Reader:
        reader = Reader(browser, files[name], **options)
        if suffix:
            reader.page.goto(files[name].as_uri() + suffix)
            reader.page.reload()
            reader.requests = reader.requests[-1:]
        opened.append(reader)
        return reader

    yield open_page
    for reader in opened:
        reader.close()


# -- the slider --------------------------------------------------------------------------------------------------------
def test_the_slider_by_keyboard(read):
    reader = read("one")
    assert reader.texts(ANSWER) == [BABBLE] * 6 and reader.value_text() == "k = 4 of 400 · collapsed; 6 gibberish"
    slider = reader.page.get_by_role("slider", name="Number of masked neurons, k")
    slider.focus()
    reader.page.keyboard.press("Home")
    assert reader.texts(ANSWER)[0] == "a small red dog sits next to car number 0"
    assert reader.value_text() == "k = 0 of 400 · intact; 6 intact"
    reader.page.keyboard.press("ArrowRight")
    assert reader.texts(ANSWER)[0] == "a huge red dog sits next to car number 0"
    assert reader.texts(f"{ANSWER} ins") == ["huge"] * 6, "the word that changed is marked"
    assert reader.texts(".card .at-k .mode") == ["degraded"] * 6
    assert reader.texts(".shares")[0] == "degraded 6 of 6 (100 %)"
    assert reader.page.url.endswith("#k=1"), "the address says where the reader is"
    reader.page.keyboard.press("End")
    assert reader.texts(".state .k") == ["k = 6 of 400 · collapsed"]


def test_the_slider_by_mouse(read):
    reader = read("one")
    box = reader.box("input[type=range]")
    middle = box["y"] + box["height"] / 2
    reader.page.mouse.move(box["x"] + box["width"] * 0.8, middle)
    reader.page.mouse.down()
    reader.page.mouse.move(box["x"] + box["width"] * 0.41, middle, steps=5)
    reader.page.mouse.up()
    assert reader.texts(".state .k") == ["k = 2 of 400 · stage 1: degraded"]
    assert reader.texts(ANSWER)[1] == "a huge blue dog sits next to car number 1"
    reader.page.get_by_role("button", name="k*", exact=True).click()
    assert reader.texts(".state .k") == ["k = 4 of 400 · collapsed"]
    strip = reader.box(".columns")
    reader.page.mouse.click(strip["x"] + strip["width"] * 0.75 / 6, strip["y"] + 5)
    assert reader.texts(".state .k") == ["k = 0 of 400 · intact"], "a click on a column goes there"


def test_the_curve_shows_where_the_slider_is(read):
    reader = read("one")
    now = reader.page.locator("svg.chart .now").first
    before = now.bounding_box()["x"]
    reader.page.get_by_role("button", name="intact", exact=True).click()
    tick = reader.page.locator("svg.chart .tick", has_text=re.compile("^0$")).last.bounding_box()
    after = now.bounding_box()
    assert after["x"] < before and abs(after["x"] + after["width"] / 2 - tick["x"] - tick["width"] / 2) < 3
    chart = reader.box("svg.chart")
    reader.page.mouse.click(chart["x"] + chart["width"] * 0.96, chart["y"] + 60)
    assert reader.texts(".state .k") == ["k = 6 of 400 · collapsed"], "a click on the curve goes to the nearest k"


def test_answers_are_filtered_by_category_and_mode(read):
    reader = read("one")
    reader.page.get_by_label("Category").select_option(label="car")
    assert reader.texts(".card:not([hidden]) .id") == ["s1", "s4"]
    assert reader.texts(".slider .count") == ["2 of 6 answers"]
    reader.page.get_by_role("combobox", name="Mode").select_option(label="off-topic")
    assert reader.texts(".card:not([hidden]) .id") == []
    reader.page.get_by_role("slider").focus()
    reader.page.keyboard.press("ArrowLeft")
    assert reader.texts(".card:not([hidden]) .id") == ["s1", "s4"], "the mode is that at the chosen k"
    assert reader.page.url.endswith("#category=car&mode=off-topic&k=3")


def test_the_address_brings_the_reader_back(read):
    reader = read("one", "#k=2&category=dog")
    assert reader.texts(".state .k") == ["k = 2 of 400 · stage 1: degraded"]
    assert reader.texts(".card:not([hidden]) .id") == ["s0", "s3"]


# -- the table ---------------------------------------------------------------------------------------------------------
def column(reader: Reader, number: int) -> list[str]:
    return reader.texts(f".sortable tbody tr:not([hidden]) td:nth-child({number})")


def test_the_ranking_is_sorted_and_filtered(read):
    reader = read("one")
    assert column(reader, 1) == [str(i) for i in range(1, 16)]
    head = reader.page.get_by_role("button", name="mean |activation|")
    head.focus()
    reader.page.keyboard.press("Enter")
    values = [float(v) for v in column(reader, 7)]
    assert values == sorted(values, reverse=True) and values[0] == 13 and values[-1] > 3, "of all rows, not of those shown"
    assert reader.page.locator("th[aria-sort]").all_inner_texts() == ["mean |activation|"]
    head.click()
    assert float(column(reader, 7)[0]) == 3
    reader.page.get_by_role("button", name="rank").click()
    reader.page.get_by_label("Filter").fill("layer 1")
    assert set(column(reader, 3)) == {"1"} and len(column(reader, 3)) == 10
    reader.page.get_by_label("Filter").fill("")
    reader.page.get_by_role("checkbox", name="critical").check()
    assert column(reader, 1) == ["1", "2", "3", "4"]
    reader.page.get_by_role("checkbox", name="known").check()
    assert column(reader, 1) == ["1"] and reader.texts(".ranking .count") == ["1 of 40 neurons shown"]
    reader.page.get_by_role("checkbox", name="known").uncheck()
    reader.page.get_by_role("checkbox", name="critical").uncheck()
    reader.page.get_by_role("button", name="Show all 40").click()
    assert len(column(reader, 1)) == 40


# -- hostile, several, narrow, dark, paper -----------------------------------------------------------------------------
def test_hostile_texts_are_shown_and_never_run(read):
    reader = read("evil")
    for key in ("Home", "ArrowRight", "End"):
        reader.page.get_by_role("slider").focus()
        reader.page.keyboard.press(key)
    shown = reader.texts(ANSWER)
    assert shown[0].endswith(f"{EVIL} 6") and "broken" not in reader.page.title().replace(EVIL, "")
    assert reader.page.locator(".cards img").count() == 6, "pictures of samples only"
    card = reader.page.locator(".card").nth(1)
    folded = card.bounding_box()["height"]
    button = card.get_by_role("button")
    assert button.inner_text().startswith("Show all (up to 10,5")
    button.click()
    assert card.bounding_box()["height"] > 3 * folded and button.get_attribute("aria-expanded") == "true"
    assert reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_stops_what_escaping_would_let_through(browser, tmp_path):
    """Were a text not escaped, the page's policy would still run no script and fetch nothing."""
    text = page("single.html.j2", title="t", view=_view(tmp_path))
    file = tmp_path / "broken.html"
    file.write_text(text.replace("</main>", EVIL + '<img src="http://127.0.0.1:9/x.png"></main>'), encoding="utf-8")
    context = browser.new_context()
    opened, messages = context.new_page(), []
    opened.on("console", lambda m: messages.append(m.text))
    opened.goto(file.as_uri())
    assert opened.title() == "t"
    for directive in ("script-src", "img-src"):
        assert [text for text in messages if "Content Security Policy" in text and directive in text], messages
    context.close()


def _view(folder: Path) -> Any:
    from lesion.report.view import View

    return View(results.result(pictures=False), folder, "r1")


def test_several_studies_do_not_disturb_each_other(read):
    reader = read("several")
    reader.page.locator("#r2 > summary").click()
    sliders = reader.page.locator("input[type=range]")
    sliders.nth(1).focus()
    reader.page.keyboard.press("Home")
    assert reader.texts(".state .k") == ["k = 4 of 400 · collapsed", "k = 0 of 400 · intact"]
    assert reader.page.url.endswith("#r2.k=0")
    assert reader.page.locator("h1").inner_text() == "Where these models collapse"


@pytest.mark.parametrize("name", ["one", "several", "evil"])
def test_nothing_is_wider_than_a_telephone(read, name):
    reader = read(name)
    reader.page.set_viewport_size({"width": 400, "height": 800})
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_dark_mode(read):
    light, dark = (read("one", color_scheme=scheme) for scheme in ("light", "dark"))
    for selector, name in (("body", "backgroundColor"), ("svg .line.a", "stroke"), (".mode.gibberish", "color")):
        colours = [r.page.eval_on_selector(selector, f"e => getComputedStyle(e).{name}") for r in (light, dark)]
        assert colours[0] != colours[1], selector


def test_a_mode_has_the_same_colour_everywhere_and_in_both_themes(read):
    for scheme in ("light", "dark"):
        reader = read("one", color_scheme=scheme)
        for mode, colour in COLOURS.items():
            sign = f".legend.modes .mode.{mode} .sign"
            assert reader.page.eval_on_selector(sign, "e => getComputedStyle(e).getPropertyValue('--mode')") == colour
        fill = reader.page.eval_on_selector(".columns rect.gibberish", "e => getComputedStyle(e).fill")
        assert fill == f"rgb{tuple(bytes.fromhex(COLOURS['gibberish'][1:]))}"
        assert reader.page.eval_on_selector(".card .mode.gibberish .sign", "e => getComputedStyle(e).backgroundColor") == fill


def test_the_legend_says_what_every_mode_means(read):
    shown = [" ".join(text.split()) for text in read("one").texts(".legend.modes li")]
    assert shown == [f"{mode} {meaning}" for mode, meaning in MEANINGS.items()]


def test_complaints_are_seen_before_anything_else_below_the_verdict(read):
    reader = read("complaints")
    box, table = reader.box(".complaints"), reader.box(".before")
    assert reader.box("h1")["y"] < box["y"] < box["y"] + box["height"] < table["y"]
    assert "it gives the same answer to all 6 samples" in reader.texts(".complaints")[0]
    assert reader.texts(".state .k") == ["k = 4 of 400 · collapsed"]
    reader.page.get_by_role("slider").focus()
    reader.page.keyboard.press("ArrowLeft")
    assert reader.texts(".state .k") == ["k = 3 of 400 · undecided"]


def test_a_card_has_the_scores_of_both_answers(read):
    reader = read("one")
    assert reader.texts(".card .clip-score")[0] == "· CLIP score 75.0 → 9.0"
    reader.page.get_by_role("button", name="intact", exact=True).click()
    assert reader.texts(".card .clip-score")[0] == "· CLIP score 75.0"
    assert set(read("stands").texts(".card .clip-score")) == {""}


def test_paper_has_intact_beside_the_end_whatever_the_slider_says(read):
    reader = read("one")
    reader.page.get_by_role("button", name="intact", exact=True).click()
    reader.page.emulate_media(media="print")
    seen = reader.page.locator(".card").first
    was, end = (seen.locator(s).bounding_box() for s in (".was", ".at-end"))
    assert not seen.locator(".at-k").is_visible() and not reader.page.locator(".panel").is_visible()
    assert was["x"] + was["width"] <= end["x"] and was["y"] == end["y"], "beside each other"
    assert seen.locator(".at-end .says").inner_text() == BABBLE
    assert len(reader.page.pdf(format="A4")) > 20_000


def test_without_scripts_the_page_can_be_read(read):
    reader = read("one", java_script_enabled=False)
    assert reader.page.locator(".at-end .says").first.inner_text() == BABBLE
    assert not reader.page.locator(".panel").is_visible() and reader.page.locator(".sortable tbody tr").count() == 40


# -- accessibility -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "scheme"), [("one", "light"), ("one", "dark"), ("stands", "light"), ("several", "dark"), ("complaints", "dark")]
)
def test_an_accessibility_checker_has_no_complaint(read, name, scheme):
    checker = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    reader = read(name, color_scheme=scheme, bypass_csp=True)
    reader.page.add_script_tag(content=(Path(checker.__file__).parent / "axe.min.js").read_text())
    reader.page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    checked = reader.page.evaluate("axe.run()")
    assert len(checked["passes"]) > 20, "the checker ran"
    assert [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in checked["violations"]] == []
