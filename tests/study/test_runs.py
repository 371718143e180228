"""What can be done with finished runs: show one, compare two, try a set on an image."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.core.errors import NeuronSetError, OptionError, RunError
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import read_top
from lesion.data.samples import load_samples
from lesion.models.loading import load
from lesion.study.difference import diff
from lesion.study.result import Result
from lesion.study.study import Study
from lesion.study.trial import attempt, neurons_of

PROMPT = "Describe this image in detail."


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """A run that finds the seeded four, one of another role, and one that is not allowed to find any."""
    folder = tmp_path_factory.mktemp("runs")
    asked = {"samples": 8, "controls": 2, "max_new_tokens": 24}
    given = {"gate": {"role": "gate"}, "hidden": {"role": "hidden", "seed": 1}, "none": {"role": "up", "max_k": 2}}
    for name, options in given.items():
        Study("tiny-llava", folder / name, **asked, **options).run()
    return {name: str(folder / name) for name in given}


def run(*words: str):
    return CliRunner().invoke(app, list(words))


def flat(text: str) -> str:
    return " ".join(text.split())


# -- show ------------------------------------------------------------------------------------------------------------------
def test_show_says_what_the_study_said(runs):
    result, shown = Result.load(runs["gate"]), run("show", runs["gate"])
    assert shown.exit_code == 0 and result.verdict in flat(shown.output)
    for part in (*result.confidence(), result.command, "collapsed", "minimal set"):
        assert part in flat(shown.output), part
    rows = [line.split() for line in shown.output.splitlines() if line.strip().startswith(tuple("0123456789"))]
    assert [int(r[0]) for r in rows if r[0].isdigit()][: len(result.curve)] == [p.k for p in result.curve]
    assert json.loads(run("show", runs["gate"], "--json").stdout) == json.loads(result.model_dump_json())


def test_the_longest_bar_is_the_highest_perplexity(runs):
    lines = run("show", runs["gate"]).output.splitlines()
    result = Result.load(runs["gate"])
    found = [re.match(r"\s*(\d+)\s+[\d.]+\s+(\u2588*)", line) for line in lines]
    bars = {int(m[1]): len(m[2]) for m in found if m}
    highest = max(result.curve, key=lambda p: p.metrics["nll_reference"] or 0)
    assert set(bars) == {p.k for p in result.curve} and bars[highest.k] == 24 and bars[0] == 0


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
    curve, collapse = result.read_curve(), result.collapse()
    assert [p.metrics for p in curve] == [p.metrics for p in result.curve]
    assert (collapse.k_star, collapse.stage1_k, collapse.k_star_ci) == (result.k_star, result.stage1_k, result.k_star_ci)
    assert (Path(runs["gate"]) / "figures" / "curve.png").stat().st_size > 10_000


def test_what_is_listed_of_samples_neurons_and_places(runs):
    result = Result.load(runs["gate"])
    assert sum(s.ranked_on for s in result.sample_list) == sum(s.measured_on for s in result.sample_list) == 4
    assert all((Path(runs["gate"]) / str(s.picture)).read_bytes()[:2] == b"\xff\xd8" for s in result.sample_list)
    assert [n.rank for n in result.top] == list(range(1, 201))
    assert {(n.layer, n.index) for n in result.top if n.critical} == {(n.layer, n.index) for n in result.critical}
    assert {n.index for n in result.top if n.known} == {47, 158, 262, 391} and "seeded" in str(result.known)
    assert [n.importance for n in result.top] == sorted((n.importance for n in result.top), reverse=True)
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
    (folder / "result.json").write_text(json.dumps(old))
    again = Study("tiny-llava", folder, samples=8, controls=2, max_new_tokens=24, role="gate").run()
    assert again.k_star == 4 and (folder / "evaluations.jsonl").read_bytes() == before


# -- diff ------------------------------------------------------------------------------------------------------------------
def test_diff_of_two_roles(runs):
    found = diff(runs["gate"], runs["hidden"])
    assert found.options == {"role": ("gate", "hidden"), "seed": (0, 1)}
    assert found.found["neurons_total"] == (2688, 2688)
    assert found.jaccard == 0 and len(found.only[0]) == 4
    shown = run("diff", runs["gate"], runs["hidden"])
    assert shown.exit_code == 0 and "0 in both" in flat(shown.output) and "Jaccard 0.00" in flat(shown.output)
    assert json.loads(run("diff", runs["gate"], runs["hidden"], "--json").stdout)["jaccard"] == 0


def test_diff_of_a_run_with_itself_and_without_a_collapse(runs):
    same = diff(runs["gate"], runs["gate"])
    assert not same.options and not same.conditions and same.jaccard == 1 and len(same.both) == 4
    nothing = diff(runs["none"], runs["none"])
    assert nothing.jaccard is None
    assert "none in either" in flat(run("diff", runs["none"], runs["none"]).output)


# -- try -------------------------------------------------------------------------------------------------------------------
def test_try_shows_a_collapse_on_an_image_of_its_own(runs, tmp_path):
    (sample,) = load_samples("scenes", 1, seed=5)
    sample.picture.save(tmp_path / "scene.png")
    file = f"{runs['gate']}/critical.json"
    for words in (["--run", runs["gate"]], ["--neurons", file], ["--run", runs["gate"], "--top", "4"]):
        shown = run("try", "tiny-llava", str(tmp_path / "scene.png"), *words, "--json")
        assert shown.exit_code == 0, shown.output
        found = json.loads(shown.stdout)
        assert found["intact"].startswith("the picture shows") and found["masked"] != found["intact"]
        assert found["ppl_reference"] > 10 * found["ppl_intact"] and len(found["neurons"]) == 4
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
    first = read_top(Path(runs["gate"]) / "ranking.csv", 3, vlm.sites)
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
        read_top(tmp_path / "ranking.csv", 1, vlm.sites)
    (tmp_path / "ranking.csv").write_text("rank\n1\n")
    with pytest.raises(NeuronSetError, match="line 2 is not a line of a ranking"):
        read_top(tmp_path / "ranking.csv", 1, vlm.sites)


def test_try_says_in_one_line_what_is_wrong(runs, tmp_path):
    (tmp_path / "bad.png").write_text("no")
    for words in (["nowhere.png", "--run", runs["gate"]], [str(tmp_path / "bad.png"), "--run", runs["gate"]], []):
        shown = run("try", "tiny-llava", *words)
        assert shown.exit_code == 2 and len(shown.stderr.splitlines()) == 1 and "leave out --strict" not in shown.stderr
