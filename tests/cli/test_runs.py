"""What can be done with finished runs: show one, compare two, try a set on an image."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.cli.show_study import show_run
from lesion.core.errors import NeuronSetError, OptionError, RunError
from lesion.core.metrics import METRICS
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.data.samples import load_samples
from lesion.models.loading import load
from lesion.study.difference import diff
from lesion.study.result import Result
from lesion.study.study import Study
from lesion.study.trial import attempt, neurons_of
from tests import results

PROMPT = "Describe this image in detail."


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """A run that finds the seeded four, one of another role, and one that is not allowed to find any."""
    folder = tmp_path_factory.mktemp("runs")
    shared = {"samples": 8, "controls": 2, "max_new_tokens": 32}
    questions = {"gate": {"role": "gate"}, "hidden": {"role": "hidden", "seed": 1}, "none": {"role": "up", "max_k": 2}}
    for name, options in questions.items():
        Study("tiny-llava", folder / name, **shared, **options).run()
    return {name: str(folder / name) for name in questions}


def run(*words: str):
    return CliRunner().invoke(app, list(words))


def flat(text: str) -> str:
    return " ".join(text.split())


# -- show ------------------------------------------------------------------------------------------------------------------
def test_show_says_what_the_study_said(runs):
    result, shown = Result.load(runs["gate"]), run("show", runs["gate"])
    assert shown.exit_code == 0 and result.verdict in flat(shown.output)
    criteria = f"k* by each criterion: paper {result.k_star}"
    about = (f"stage 1: {result.collapse.stage1()}", result.collapse.interval(), "criterion: paper: perplexity of", criteria)
    for part in (*result.confidence(), *about, result.command, "collapsed", "minimal set (no 3 of these 4 collapse it)"):
        assert part in flat(shown.output), part
    rows = [line.split() for line in shown.output.splitlines() if line.strip().startswith(tuple("0123456789"))]
    assert [int(r[0]) for r in rows if r[0].isdigit()][: len(result.curve)] == [p.k for p in result.curve]
    assert json.loads(run("show", runs["gate"], "--json").stdout) == json.loads(result.model_dump_json())


def test_the_longest_bar_is_the_highest_perplexity(runs):
    lines = run("show", runs["gate"]).output.splitlines()
    result = Result.load(runs["gate"])
    matches = [re.match(r"\s*(\d+)\s+[\d.,e+]+\s+(\u2588*)", line) for line in lines]
    bars = {int(m[1]): len(m[2]) for m in matches if m}
    highest = max(result.curve, key=lambda p: p.metrics["nll_reference"] or 0)
    assert set(bars) == {p.k for p in result.curve} and bars[highest.k] == 20 and bars[0] == 0


def shown_of(result: Result, **changes: Any) -> str:
    """What the terminal shows of a result whose fields were changed."""
    text = io.StringIO()
    show_run(result.model_copy(update=changes), Console(file=text, width=300))
    return flat(text.getvalue())


def test_what_was_not_measured_is_said_as_that(runs):
    result = Result.load(runs["gate"])
    assert METRICS["clip_score"].label in shown_of(result)
    without = shown_of(
        result, baseline={**result.baseline, "clip_score": None, "ppl_generated": None}, left_out={"clip_score": "not measured"}
    )
    assert "of its distance from chance left); CLIP score not measured" in without
    assert "│ perplexity of its own answers │ not finite │" in without and "│ CLIP score" not in without
    assert "task undecided (yes/no accuracy not measured)" in without


def test_undecided_points_and_open_intervals_are_words(runs):
    result = Result.load(runs["none"])
    assert "collapse: none up to k = 2 of 2,688 neurons" in shown_of(result)
    unsure = shown_of(result, undecided=[1, 2], samples_needed=12)
    assert "undecided: at k = 1, 2 the samples (4) do not tell whether the model has collapsed; about 12 would" in unsure
    stages = [line for line in unsure.split("stage")[-1].split() if line == "undecided"]
    assert len(stages) == 2
    wide = shown_of(Result.load(runs["gate"]), k_star_ci=(3, None))
    assert "95 % interval from 3 up: some resamples" in wide and "to none" not in wide


def test_an_intact_model_that_does_not_work_is_said_first(runs):
    result = Result.load(runs["gate"])
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=True, color_system="standard")
    show_run(result.model_copy(update={"complaints": ["it is mute"], "verdict": "tiny-llava does not work"}), console)
    assert "\x1b[1;31mtiny-llava does not work\x1b[0m" in text.getvalue()


def test_controls_that_are_undecided_do_not_count_as_standing(runs):
    result = Result.load(runs["gate"])
    first, *others = result.controls
    assert "2 of 2" in shown_of(result).split("controls that leave the model standing: ")[1].split(",")[0]
    unsure = shown_of(result, controls=[first.model_copy(update={"collapsed": None}), *others])
    assert "1 of 2 (1 undecided)" in unsure.split("controls that leave the model standing: ")[1].split(",")[0]


def test_one_measured_sample_says_nothing_of_noise(tmp_path):
    small = {"samples": 2, "max_k": 1, "controls": 0, "max_new_tokens": 4, "clip": "none"}
    Study("tiny-llava", tmp_path / "run", **small).run()
    shown = flat(run("show", str(tmp_path / "run")).output)
    assert "beyond sampling noise" not in shown and "95 % interval" not in shown
    assert "stage 1: not tested: 1 measured sample is too few" in shown


def test_the_command_asks_the_same_again(runs):
    """Read by the command line's own parser."""
    for name in runs:
        result = Result.load(runs[name])
        words = result.command.split()
        assert words[:2] == ["lesion", "study"]
        again = run(*words[1:], "--out", runs[name], "--json")
        assert again.exit_code == 0 and json.loads(again.stdout) == json.loads(result.model_dump_json()), again.output


def test_the_result_gives_the_curve_back(runs):
    result = Result.load(runs["gate"])
    curve, collapse = result.read_curve(), result.collapse
    assert [p.metrics for p in curve] == [p.metrics for p in result.curve]
    assert (collapse.k_star, collapse.stage1_k, collapse.k_star_ci) == (result.k_star, result.stage1_k, result.k_star_ci)


def test_what_is_listed_of_samples_neurons_and_places(runs):
    result = Result.load(runs["gate"])
    assert sum(s.ranked_on for s in result.sample_list) == sum(s.measured_on for s in result.sample_list) == 4
    assert all((Path(runs["gate"]) / str(s.picture)).read_bytes()[:2] == b"\xff\xd8" for s in result.sample_list)
    assert [n.rank for n in result.top] == list(range(1, 201))
    assert {(n.layer, n.index) for n in result.top if n.critical} == {(n.site.layer, n.index) for n in result.critical}
    assert {n.index for n in result.top if n.known} == {47, 158, 262, 391} and "seeded" in str(result.known)
    importances = [n.importance or 0.0 for n in result.top]
    assert importances == sorted(importances, reverse=True) and importances[-1] > 0
    assert sum(p.critical for p in result.places) == result.k_star
    assert sum(p.width for p in result.places if (p.component, p.role) == ("language", "gate")) == result.neurons_total


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read.*expected the run directory of a finished study"),
        ("{", "no result that this version"), ('{"model": "x"}', "component: Field required.*run its study again"),
    ],
)  # fmt: skip
def test_folders_that_hold_no_result(tmp_path, content, says):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunError, match=says):
        Result.load(tmp_path)
    shown = run("show", str(tmp_path))
    assert shown.exit_code == 2 and len(shown.stderr.splitlines()) == 1


def test_a_result_of_another_version_is_made_anew_from_what_was_measured(runs, tmp_path):
    folder = tmp_path / "gate"
    shutil.copytree(runs["gate"], folder)
    before = (folder / "evaluations.jsonl").read_bytes()
    old = json.loads((folder / "result.json").read_text())
    del old["places"]
    results.rewrite(folder / "result.json", old)
    again = Study("tiny-llava", folder, samples=8, controls=2, max_new_tokens=32, role="gate").run()
    assert again.k_star == 4 and (folder / "evaluations.jsonl").read_bytes() == before


# -- diff ------------------------------------------------------------------------------------------------------------------
def test_diff_of_two_roles(runs):
    difference = diff(runs["gate"], runs["hidden"])
    assert difference.options == {"role": ("gate", "hidden"), "seed": (0, 1)}
    assert difference.answers["neurons_total"] == (2688, 2688) and difference.same_model
    assert difference.jaccard == 0 and len(difference.only[0]) == 4
    first, second = (Result.load(runs[name]) for name in ("gate", "hidden"))
    assert difference.intact["clip_score"] == (first.baseline["clip_score"], second.baseline["clip_score"])
    shown = run("diff", runs["gate"], runs["hidden"])
    assert shown.exit_code == 0 and "0 in both" in flat(shown.output) and "Jaccard 0.00" in flat(shown.output)
    assert "two models" not in flat(shown.output)
    data = json.loads(run("diff", runs["gate"], runs["hidden"], "--json").stdout)
    assert data["jaccard"] == 0 and len(data["only"][0]) == 4 and data["same_model"]
    rows = {(row["kind"], row["name"]): (row["first"], row["second"]) for row in data["differences"]}
    assert rows["option", "role"] == ("gate", "hidden") and rows["answer", "k_star"] == (first.k_star, second.k_star)
    at_k_star = next(p.metrics["ppl_reference"] for p in first.curve if p.k == first.k_star)
    assert rows["at k*", "ppl_reference"][0] == at_k_star


def test_diff_of_a_run_with_itself_and_without_a_collapse(runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    same = diff(runs["gate"], runs["gate"])
    assert not same.options and not same.conditions and same.jaccard == 1 and len(same.both) == 4
    nothing = diff(runs["none"], runs["none"])
    assert nothing.jaccard is None and nothing.collapsed["ppl_reference"] == (None, None)
    shown = flat(run("diff", runs["none"], runs["none"]).output)
    assert "none in either" in shown and "none up to 2" in shown and "no k*, hence no interval" in shown
    assert "no k* │ no k*" in shown and "to none" not in shown


def test_diff_of_two_models(runs, tmp_path, monkeypatch):
    """Sites are the same by their keys, though they are not as wide in the other model."""
    monkeypatch.setenv("COLUMNS", "300")
    shutil.copytree(runs["gate"], tmp_path / "other")
    critical, result = tmp_path / "other" / "critical.json", tmp_path / "other" / "result.json"
    neurons, data = json.loads(critical.read_text()), json.loads(result.read_text())
    (site,) = neurons["sites"]
    shared, site["width"] = site["indices"][:3], 5000
    site["indices"] = [*shared, 4999]
    for model in (neurons["model"], data["conditions"]["model"]):
        model |= {"base": "wider", "weights": "0" * 64}
    critical.write_text(json.dumps(neurons))
    results.rewrite(result, data)
    difference = diff(runs["gate"], tmp_path / "other")
    assert not difference.same_model and difference.conditions["model.base"] == ("tiny-llava", "wider")
    assert [n.index for n in difference.both] == shared and difference.jaccard == 3 / 5
    (lost,), (new,) = difference.only
    assert (lost.site.width, new.site.width, new.index) == (448, 5000, 4999)
    shown = flat(run("diff", runs["gate"], str(tmp_path / "other")).output)
    assert "3 in both, 1 and 1 in one alone" in shown and "two models" in shown


# -- try -------------------------------------------------------------------------------------------------------------------
def test_try_shows_a_collapse_on_an_image_of_its_own(runs, tmp_path):
    (sample,) = load_samples("scenes", 1, seed=5)
    sample.picture.save(tmp_path / "scene.png")
    file = f"{runs['gate']}/critical.json"
    for words in (["--run", runs["gate"]], ["--neurons", file], ["--run", runs["gate"], "--top", "4"]):
        shown = run("try", "tiny-llava", str(tmp_path / "scene.png"), *words, "--json")
        assert shown.exit_code == 0, shown.output
        trial = json.loads(shown.stdout)
        assert trial["intact"].startswith("the picture shows") and trial["masked"] != trial["intact"]
        assert trial["ppl_reference"] > 10 * trial["ppl_intact"] and len(trial["neurons"]) == 4
        assert trial["neurons_of"]["base"] == "tiny-llava"
    table = run("try", "tiny-llava", str(tmp_path / "scene.png"), "--run", runs["gate"])
    assert table.exit_code == 0 and "the picture shows" in flat(table.output) and "4 masked" in flat(table.output)


def test_try_leaves_the_model_as_it_was(runs):
    vlm, (sample,) = load("tiny-llava"), load_samples("scenes", 1)
    vision = NeuronSet.from_arrays({s: np.arange(s.width) for s in vlm.sites.select("vision", "hidden")})
    one, other = (attempt(vlm, sample, neurons, PROMPT, 16) for neurons in (vision, NeuronSet()))
    assert one.intact == other.intact == other.masked != one.masked
    assert other.ppl_intact == other.ppl_reference


def test_which_neurons(runs, tmp_path):
    vlm = load("tiny-llava")
    first = Ranking.load(Path(runs["gate"]) / "ranking.csv", vlm.sites, 3).top(3)
    assert {(n.site.layer, n.index) for n in first} == {(n.layer, n.index) for n in Result.load(runs["gate"]).top[:3]}
    assert neurons_of(vlm, None, runs["gate"], 3) == first
    for file, folder, top, error, says in (
        (None, None, None, OptionError, "which neurons"), ("x", "y", None, OptionError, "which neurons"),
        ("x", None, 3, OptionError, "--top needs --run"), (None, runs["none"], None, NeuronSetError, "has no neurons"),
        (None, runs["gate"], 0, OptionError, "k is 0"), (None, runs["gate"], 10_000, OptionError, "ranks 2688 neurons"),
        (None, str(tmp_path), 3, NeuronSetError, "cannot be read as a ranking"),
        ("nowhere.json", None, None, NeuronSetError, "cannot be read as a set of neurons"),
    ):  # fmt: skip
        with pytest.raises(error, match=says):
            neurons_of(vlm, file, folder, top)
    (tmp_path / "ranking.csv").write_text("rank,path,role,index\n1,nowhere,gate,3\n")
    with pytest.raises(NeuronSetError, match="line 2: the model has no gate site at 'nowhere'"):
        Ranking.load(tmp_path / "ranking.csv", vlm.sites, 1)
    (tmp_path / "ranking.csv").write_text("rank\n1\n")
    with pytest.raises(NeuronSetError, match="line 2 is not a line of a ranking"):
        Ranking.load(tmp_path / "ranking.csv", vlm.sites, 1)


def test_neurons_of_another_model_need_force(runs, tmp_path):
    vlm, folder = load("tiny-llava"), tmp_path / "other"
    shutil.copytree(runs["gate"], folder)
    for name in ("critical.json", "manifest.json"):
        data = json.loads((folder / name).read_text())
        data["model"] |= {"base": "elsewhere", "weights": "0" * 64}
        results.rewrite(folder / name, data)
    critical = str(folder / "critical.json")
    for file, directory, top in ((critical, None, None), (None, str(folder), None), (None, str(folder), 4)):
        with pytest.raises(NeuronSetError, match=r"found in elsewhere.*this model is tiny-llava.*--force"):
            neurons_of(vlm, file, directory, top)
        lines: list[str] = []
        members = neurons_of(vlm, file, directory, top, True, lines.append)
        assert len(members) == 4 and "found in elsewhere" in lines[0] and len(lines) == 1
        neurons_of(vlm, None, runs["gate"], top, True, lines.append)
        assert len(lines) == 1  # of the same model there is nothing to say
    (sample,) = load_samples("scenes", 1, seed=5)
    sample.picture.save(tmp_path / "scene.png")
    words = ("try", "tiny-llava", str(tmp_path / "scene.png"), "--run", str(folder), "--max-new-tokens", "4")
    refused = run(*words)
    assert refused.exit_code == 2 and len(refused.stderr.splitlines()) == 1 and "--force" in refused.stderr
    forced = run(*words, "--force", "--json")
    assert forced.exit_code == 0 and "warning: --force: the neurons were found in elsewhere" in flat(forced.stderr)
    assert json.loads(forced.stdout)["neurons_of"]["base"] == "elsewhere"


def test_try_says_in_one_line_what_is_wrong(runs, tmp_path):
    (tmp_path / "bad.png").write_text("no")
    for words in (["nowhere.png", "--run", runs["gate"]], [str(tmp_path / "bad.png"), "--run", runs["gate"]], []):
        shown = run("try", "tiny-llava", *words)
        assert shown.exit_code == 2 and len(shown.stderr.splitlines()) == 1 and "leave out --strict" not in shown.stderr


def test_the_schema_is_printed_and_the_published_one(tmp_path):
    """docs/result.schema.json is what `lesion schema` prints; every field of a result stands in it."""
    said = CliRunner().invoke(app, ["schema"])
    assert said.exit_code == 0
    schema = json.loads(said.stdout)
    published = Path(__file__).parents[2] / "docs" / "result.schema.json"
    assert published.read_text() == said.stdout, "write it anew: lesion schema > docs/result.schema.json"
    data = json.loads(results.result().model_dump_json())
    assert set(data) == set(schema["properties"]) and set(schema["required"]) <= set(data)
    assert schema["properties"]["format"]["const"] == data["format"] == "lesion-result-1"
