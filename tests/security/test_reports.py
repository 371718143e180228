"""Reports escape every text that they show, and forbid themselves everything that they do not need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesion.core import tables
from lesion.core.identity import Identity
from lesion.core.importance import Importance
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from lesion.paper.part import Part
from lesion.paper.write import write
from lesion.report.figures import encode, new_figure
from lesion.report.html import Run, report, write_report
from lesion.report.plots import plot_curve, plot_places
from lesion.report.snippets import snippets
from lesion.study.explanation import Explanation
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.result import Result
from lesion.study.rundir import EXPLANATION
from tests import results
from tests.fuzz import seeds
from tests.report.pages import Page

EVIL = "</script></title></style></svg>\"'><script>alert(1)</script><img src=x onerror=alert(2)><!--&lt;{{ 7 * 7 }}$\\frac{$"
PLAIN = "some words"


# -- every text of a result ------------------------------------------------------------------------------------------------
def texts(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a tree of JSON there are texts, keys among them."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        if isinstance(value, str):
            yield (*path, key)
        yield from texts(value, (*path, key))


def put(tree: Any, path: tuple[Any, ...], value: str) -> None:
    for step in path[:-1]:
        tree = tree[step]
    tree[path[-1]] = value


def kind(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The same for all entries of a list."""
    return tuple("*" if isinstance(step, int) else step for step in path)


SAME = {("sample_list", "*", "id"), ("curve", "*", "outcomes", "*", "id"), ("curve", "*", "outcomes", "*", "answer")}
"""What ties parts of a result together, or is compared word by word: each gets a text that says which it was."""


def full() -> tuple[Result, Explanation]:
    """A result with everything in it that a report can show."""
    neuron = results.result().top[0]
    entry = NeuronEntry(**neuron.model_dump(include=set(NeuronEntry.model_fields)))
    metrics = {"ppl_reference": 2.0, "clip_score": 10.0}
    candidate = {"neurons": [entry], "collapsed": True, "evaluation": "key", **metrics}
    control = {"kind": "random", "seed": 0, "k": 1, "collapsed": False, "evaluation": "key", **metrics}
    order = {"of": "top k", "k": 1, "promised": 0.5, "measured": 4.0}
    alone = {
        "neuron": entry, "rank": 3, "before": metrics, "after": metrics, "rise": 1.0, "rise_of_first": 0.5, "collapsed": True,
        "missed": True, "evaluation": "key",
    }  # fmt: skip
    made = results.result(
        samples=6, controls=1, notes=["a note"], complaints=["a complaint"], known="somebody",
        blind={"alone": alone, "first_order": [order], "beyond": order, "warnings": ["a warning"]},
        searched={
            "budget": 9, "spent": 5, "passes": 1, "ended": True, "shortlist": 4, "samples": 2, "neurons": [entry],
            "steps": [{"spent": 1, "size": 2, "rise": 1.0, "collapsed": True}], "level": "1-minimal", "candidates": [candidate],
            "singles": [{"neuron": entry, "rise": 1.0, "collapsed": True}], "controls": [control],
            "subsets": [{"members": [0], "collapsed": False}],
        },
        left_out={"clip_score": "at chance"}, undecided=[1], samples_needed=9,
    )  # fmt: skip
    explanation = Explanation.model_validate_json(seeds.explanations()[0])
    return made, explanation


def poisoned(model: Any, text: str) -> tuple[Any, set[tuple[str, ...]]]:
    """A model with a text put wherever its types allow one, and where that was."""
    tree, changed = json.loads(model.model_dump_json()), set[tuple[str, ...]]()
    for path in list(texts(tree)):
        if any(step == "format" for step in path):
            continue
        before = json.loads(json.dumps(tree))
        own = text + str(path[-2] if kind(path) in SAME else "")
        put(tree, path, own)
        try:
            type(model).model_validate(tree)
        except ValueError:
            tree = before  # one of a few words, such as a mode
        else:
            changed.add(kind(path))
    return type(model).model_validate(tree), changed


def page_of(text: str, folder: Path) -> tuple[str, set[tuple[str, ...]]]:
    made, explanation = full()
    result, changed = poisoned(made, text)
    why, more = poisoned(explanation, text)
    for outcome in (o for point in result.curve for o in point.outcomes):
        outcome["mode"] = "gibberish"  # a text like another to pydantic, and one of a few to the report
    result.options["mask"], result.options["mask_positions"] = "zero", "all"  # so that code is shown
    for entry in (*result.critical_neurons, *(result.minimal_set or [])):
        entry.component, entry.role = "language", "gate"
    folder.mkdir()
    (folder / EXPLANATION).write_text(why.model_dump_json())
    result.run = str(folder)
    return report([Run(result, folder)]), changed | more


class Shape(HTMLParser):
    """What a page is made of, without its texts: elements in their order, and the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shape: list[Any] = []
        self.comments = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.shape.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        self.comments += 1


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, set[tuple[str, ...]]]:
    """A page of plain words, the same of evil ones, and where they were put."""
    folder = tmp_path_factory.mktemp("pages")
    plain, _ = page_of(PLAIN, folder / "plain")
    evil, changed = page_of(EVIL, folder / "evil")
    return plain, evil, changed


def test_every_text_that_a_report_shows_is_text(pages: tuple):
    """Whatever the words are, the page has the same elements with the same attributes."""
    plain, evil, _ = pages
    one, other = Shape(plain), Shape(evil)
    marks = {("ins",), "/ins", ("del",), "/del"}  # of changed words, of which there are others
    assert [s for s in one.shape if s not in marks] == [s for s in other.shape if s not in marks]
    assert one.comments == other.comments == 0
    assert evil.count("alert(1)") > 50 and Page(evil).text.count("alert(1)") > 30
    assert "49" not in re.findall(r"\{\{ ?(.*?) ?\}\}", evil) and "{{ 7 * 7 }}" in Page(evil).text


def test_the_texts_were_those_that_matter(pages: tuple):
    shown = {"/".join(path) for path in pages[2]}
    wanted = {
        "model", "component", "role", "scorer", "verdict", "command", "known", "notes/*", "complaints/*", "options/prompt",
        "run", "criterion/name", "criterion/about", "criteria/*/name", "criteria/*/about", "left_out/clip_score",
        "sample_list/*/id", "sample_list/*/category", "sample_list/*/prompt", "sample_list/*/picture",
        "curve/*/outcomes/*/answer", "curve/*/outcomes/*/id", "curve/*/evaluation", "top/*/path", "top/*/component",
        "top/*/role",
        "critical_neurons/*/path", "minimal_set/*/path", "places/*/component", "places/*/role", "controls/*/kind",
        "blind/warnings/*", "blind/alone/neuron/path", "searched/neurons/*/path", "searched/candidates/*/evaluation",
        "conditions/device", "conditions/model/base", "conditions/versions/lesion", "neurons/*/path", "trace/token_class",
        "losses/*/sample", "losses/*/tokens/*", "together/*/answers/*/answer",
    }  # fmt: skip
    assert wanted - shown == set()


def test_names_of_metrics_and_conditions_are_text_too(tmp_path: Path):
    made = results.result(conditions={EVIL: {EVIL: EVIL}, "model": {"base": "m", "weights": "0"}}, left_out={EVIL: EVIL})
    made.options[EVIL] = {EVIL: EVIL}
    page = report([Run(made, tmp_path)])
    assert Page(page).count("script") == 2 and Page(page).count("img") == 0 and "alert(1)" in Page(page).text


# -- what a page allows itself ---------------------------------------------------------------------------------------------
def policy_of(page: str) -> dict[str, list[str]]:
    content = next(a["content"] for _, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    return {words.split()[0]: words.split()[1:] for words in (content or "").split("; ")}


def test_the_policy_is_strict_and_true(pages: tuple):
    for page in pages[:2]:
        policy = policy_of(page)
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
        assert policy["img-src"] == ["data:"] and set(policy) == {
            "default-src", "img-src", "style-src", "script-src", "base-uri", "form-action",
        }  # fmt: skip
        assert not [word for words in policy.values() for word in words if "unsafe" in word or "*" in word or "http" in word]
        for element, words in (("script", policy["script-src"]), ("style", policy["style-src"])):
            text = re.findall(rf"(?s)<{element}>(.*?)</{element}>", page)
            digests = [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in text]
            assert digests == words, element
        places = [page.index(word) for word in ("Content-Security-Policy", "<style>", "<script")]
        assert places == sorted(places), "it stands before anything that it is about"


def test_there_is_no_inline_handler_and_no_link_to_elsewhere(pages: tuple):
    for page in pages[:2]:
        tags = Page(page).tags
        assert not [name for _, attrs in tags for name in attrs if name.startswith("on") or name in ("style", "srcdoc")]
        assert not [tag for tag, _ in tags if tag in ("iframe", "object", "embed", "base", "form", "link", "audio", "video")]
        for name in ("href", "src", "action", "formaction", "xlink:href"):
            assert all((a[name] or "").startswith("data:") for _, a in tags if name in a), name


def test_the_scripts_make_text_of_texts():
    folder = Path(report.__code__.co_filename).parent / "templates"
    dangerous = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\(['\"]")
    assert dangerous.search("x.innerHTML = y") and len(list(folder.glob("*.js"))) >= 2
    for file in folder.glob("*.js"):
        assert not dangerous.findall(file.read_text()), file
    for file in folder.glob("*.j2"):
        # What is marked as safe is written in the template, never a value.
        assert not re.findall(r"\{\{(?:(?!\}\}).)*?(?<!')\| ?safe", file.read_text().replace("' | safe", "")), file


def test_several_studies_and_the_papers_summary(tmp_path: Path):
    class Evil(Part):
        name, title, model = "verdict", "A title", EVIL

        def words(self) -> list[str]:
            return [EVIL]

        def table(self) -> list[dict[str, Any]]:
            return [{EVIL: EVIL, "k": 1}]

        def plot(self):
            figure, axes = new_figure()
            axes[0, 0].set_title(EVIL)
            return figure

    write(tmp_path, {EVIL.replace("/", ""): {"verdict": Evil()}}, {}, {})
    summary = (tmp_path / "summary.html").read_text()
    made = results.result(model=EVIL, verdict=EVIL, component=EVIL)
    for page in (summary, report([Run(made, tmp_path), Run(made, tmp_path)])):
        found = Page(page)
        assert found.count("script") in (1, 3) and not found.count("img", src="x") and "alert(1)" in found.text
        assert policy_of(page)["default-src"] == ["'none'"]
    assert "<script" not in (tmp_path / "summary.md").read_text() and "&lt;script" in (tmp_path / "summary.md").read_text()
    assert "<" not in tables.markdown([{EVIL: EVIL}])


# -- code, figures and notebooks ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path", ["m; import os", "m\nimport os", "m')(__import__('os')", "m.0]; x = [0", "", "m..x", "m.x-y", "1m", "m.ä"]
)
def test_code_is_shown_of_names_of_modules_alone(path: str):
    """It is there to be copied and run, and a result may come from anyone."""
    good = NeuronEntry(path="model.layers.3.mlp.gate_proj", component="language", role="gate", layer=3, index=1, width=9)
    assert [name for name, _ in snippets([good])] == ["PyTorch", "nnsight", "TransformerLens"]
    assert snippets([good, good.model_copy(update={"path": path})]) == []


@pytest.mark.parametrize("name", [EVIL, "$", "$$", "$x$", "$\\frac{$", "\\", "\x00\x1b", "{}", "图 \u202e", "-->", "x" * 2000])
def test_a_figure_takes_any_name(tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder):
    made = results.result(samples=2, ks=(0, 1, 2), nll=(0.1, 0.2, 4.0), model=name, verdict=name, scorer=name)
    for place in made.places:
        place.role, place.component = name, name
    for figure in (plot_curve(made), plot_places(made)):
        drawn = ElementTree.fromstring(encode(figure, "svg"))
        assert {element.tag.rpartition("}")[2] for element in drawn.iter()} & {"script", "foreignObject", "image"} <= {"image"}
        assert not [a for element in drawn.iter() for a in element.attrib if a.lower().startswith("on")]
        assert encode(figure, "png").startswith(b"\x89PNG")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_figure_keeps_its_own_formulas():
    """The ticks of a logarithmic axis are formulas of matplotlib's."""
    figure, axes = new_figure()
    axes[0, 0].loglog([1, 1e6], [1, 1e6])
    axes[0, 0].set_title("costs $5 to $7")
    encode(figure, "svg")
    ticks = [label for label in axes[0, 0].get_xticklabels() if label.get_text()]
    assert ticks and all(label.get_parse_math() and "mathdefault" in label.get_text() for label in ticks)
    assert axes[0, 0].title.get_text() == "costs $5 to $7" and not axes[0, 0].title.get_parse_math()
    figure.suptitle("$a$ and $b$", wrap=True)
    for _ in range(2):
        encode(figure, "svg")
    assert figure.get_suptitle() == r"\$a\$ and \$b\$", "which is how matplotlib writes dollars; once"


def test_notebooks_escape_texts(tmp_path: Path):
    site = Site(EVIL, "language", EVIL, 0, 9)
    sites, neurons = Sites([site]), NeuronSet.from_arrays({site: np.array([1])}, Identity(EVIL, EVIL))
    importance = Importance(EVIL, {}, sites, {site.key: np.ones(9)}, {site.key: np.ones(9, dtype=np.int64)}, 1)
    made = results.result(verdict=EVIL, notes=[EVIL])
    for thing in (sites, neurons, importance, Ranking(importance, sites), made, made.read_curve()):
        html = thing._repr_html_()
        assert not re.findall(r"<(?:script|img|/?title|!--)", html), type(thing)
        assert "alert(1)" in html or thing is not made


def test_a_report_from_the_disk_is_the_same(tmp_path: Path):
    folder = results.save(results.result(model=EVIL, verdict=EVIL), tmp_path / "run")
    page = write_report(folder).read_text()
    assert Page(page).count("script") == 2 and policy_of(page)["default-src"] == ["'none'"]
