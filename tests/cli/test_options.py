"""Every option of a study is on the command line, and reaches the study."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import lesion
from lesion.cli.app import app
from lesion.cli.options import ARGUMENT
from lesion.core.errors import LesionError
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.models.loading import load
from lesion.study.options import StudyOptions
from lesion.study.stages import STAGES
from lesion.study.study import Study

WORDS: dict[str, tuple[list[str], Any]] = {
    "model": (["tiny-instructblip"], "tiny-instructblip"),
    "data": (["--data", "questions"], "questions"),
    "category": (["--category", "dog"], "dog"),
    "prompt": (["--prompt", "What is this?"], "What is this?"),
    "component": (["--component", "vision"], "vision"),
    "role": (["--role", "down"], "down"),
    "layers": (["--layers", "1-2"], "1-2"),
    "scorer": (["--scorer", "taylor"], "taylor"),
    "alpha": (["--alpha", "0.5"], 0.5),
    "aggregate": (["--aggregate", "max"], "max"),
    "positions": (["--positions", "image"], "image"),
    "top": (["--top", "0.05"], 0.05),
    "noise": (["--noise", "0.3"], 0.3),
    "ig_steps": (["--ig-steps", "4"], 4),
    "ig_path": (["--ig-path", "all"], "all"),
    "neurons": (["--neurons", "set.json"], "set.json"),
    "force": (["--force", "--neurons", "set.json"], True),
    "samples": (["--samples", "7"], 7),
    "split": (["--split", "same"], "same"),
    "target": (["--target", "reference"], "reference"),
    "mask": (["--mask", "scale:0.5"], "scale:0.5"),
    "mask_positions": (["--mask-positions", "image"], "image"),
    "criterion": (["--criterion", "perplexity"], "perplexity"),
    "max_k": (["--max-k", "9"], 9),
    "max_new_tokens": (["--max-new-tokens", "5"], 5),
    "controls": (["--controls", "2"], 2),
    "search": (["--search", "measured"], "measured"),
    "search_budget": (["--search-budget", "90"], 90),
    "shortlist": (["--shortlist", "30"], 30),
    "minimal_limit": (["--minimal-limit", "3"], 3),
    "clip": (["--clip", "none"], "none"),
    "seed": (["--seed", "4"], 4),
    "strict": (["--strict"], True),
    "dtype": (["--dtype", "bfloat16"], "bfloat16"),
    "trust_remote_code": (["--trust-remote-code"], True),
    "device": (["--device", "cpu"], "cpu"),
    "device_map": (["--device-map", "auto"], "auto"),
    "quantization": (["--quantization", "8bit"], "8bit"),
    "batch_size": (["--batch-size", "3"], 3),
    "threads": (["--threads", "1"], "1"),
}
"""Field -> words of the command line, and what the field then is."""
OWN = {
    ("ranks", "neurons"), ("ranks", "scorer"), ("try", "neurons"), ("try", "top"), ("export", "top"), ("harden", "top"),
    ("harden", "split"), ("faults", "top"),
}  # fmt: skip
"""Options of other commands that only share the name of a study's."""
SMALL = ("--samples", "4", "--max-k", "1", "--controls", "0", "--max-new-tokens", "4", "--clip", "none")

Started = list[tuple[StudyOptions, Path, str | None]]


class StoppedError(LesionError):
    """Ends a study before it begins."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The options, the run directory and the first stage of every study that the command line starts; none is run."""
    seen: Started = []

    def run(study: Study, start: str | None = None) -> None:
        seen.append((study.options, study.out, start))
        raise StoppedError("stopped")

    monkeypatch.setattr(Study, "run", run)
    return seen


def run(*words: str | Path):
    return CliRunner().invoke(app, [str(word) for word in words])


def complaint(*words: str | Path) -> str:
    """The one line that a command says which fails with exit code 2."""
    result = run(*words)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.output, result.exception)
    assert result.stdout == "" and "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("warning:", "["))]
    assert len(lines) == 1 and lines[0].startswith("lesion: "), result.stderr
    return lines[0]


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return group.commands


# -- from the fields ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", StudyOptions.model_fields)
def test_every_option_reaches_the_study(started: Started, name: str):
    words, value = WORDS[name]
    assert value != StudyOptions.model_fields[name].default
    assert complaint("study", *words) == "lesion: stopped"
    ((options, _, start),) = started
    assert getattr(options, name) == value and type(getattr(options, name)) is type(value) and start is None
    others = {n: v for n, v in options.model_dump().items() if n not in (name, "neurons" if name == "force" else name)}
    assert others == {n: StudyOptions.model_fields[n].default for n in others}


@pytest.mark.parametrize("name", StudyOptions.model_fields)
def test_the_command_of_a_result_asks_the_same(started: Started, name: str):
    """Read by the command line's own parser."""
    complaint("study", *WORDS[name][0])
    ((options, _, _),) = started
    program, *words = shlex.split(options.command())
    assert program == "lesion" and words[0] == "study"
    complaint(*words)
    assert started[1][0] == options


def test_nothing_is_asked_by_default(started: Started):
    complaint("study")
    assert started[0][0] == StudyOptions.parse()


def test_a_criterion_of_ones_own(started: Started, tmp_path: Path):
    conditions = "conditions: [{metric: empty, test: at-least, limit: 0.5}]"
    (tmp_path / "mute.yaml").write_text(f"name: mute\n{conditions}\n")
    complaint("study", "--criterion", tmp_path / "mute.yaml")
    assert started[0][0].rule().name == "mute"
    (tmp_path / "mute.yaml").write_text("name: mute\nconditions: []\n")
    assert "not a criterion: conditions" in complaint("study", "--criterion", tmp_path / "mute.yaml")


def test_the_help_of_an_option_is_its_fields_description():
    shared: dict[str, set[str]] = {}
    for name, command in commands().items():
        for parameter in command.params:
            if parameter.name in StudyOptions.model_fields and (name, parameter.name) not in OWN:
                field = StudyOptions.model_fields[parameter.name]
                assert parameter.help == field.description, (name, parameter.name)
                assert parameter.param_type_name == ("argument" if parameter.name == ARGUMENT else "option")
                shared.setdefault(name, set()).add(parameter.name)
    assert shared["study"] == set(StudyOptions.model_fields)
    assert {"paper", "check-known", "doctor", "try", "sites"} < set(shared)
    loading = {"dtype", "device", "device_map", "quantization", "trust_remote_code"}
    assert all(loading < shared[name] for name in ("study", "paper", "check-known", "doctor", "try"))


def test_the_paper_leaves_to_its_plan_what_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[Any, ...]] = []

    def paper(models: Any, out: Any, quick: bool, progress: Any, executor: Any, **options: Any) -> None:
        assert executor is None
        seen.append((tuple(models), out, quick, options))
        raise StoppedError("stopped")

    monkeypatch.setattr("lesion.paper.paper", paper)
    complaint("paper")
    complaint("paper", "a/b", "c/d", "--quick", "--out", "here", "--role", "up", "--max-k", "3", "--per-category", "2")
    (models, out, quick, options), (other_models, other_out, other_quick, chosen) = seen
    assert models == ("tiny-llava", "tiny-instructblip") and out is None and not quick
    assert options == {n: StudyOptions.model_fields[n].default for n in options if n != "device_map"}
    assert not {"prompt", "role", "samples", "controls", "split", "target", "max_k", "max_new_tokens"} & set(options)
    assert other_models == ("a/b", "c/d") and other_out == "here" and other_quick
    assert {n: v for n, v in chosen.items() if n not in options} == {"role": "up", "max_k": 3, "per_category": 2}


# -- what a user gets wrong ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples", "many"], "Invalid value for '--samples'"), (["--alpha", "x"], "Invalid value for '--alpha'"),
        (["--samples", "0"], "samples is 0: input should be greater than or equal to 1"),
        (["--threads", "0"], "threads is '0'"), (["--batch-size", "0"], "batch_size is 0"),
        (["--seed", "-1"], "seed is -1"), (["--prompt", ""], "prompt is ''"),
        (["--split", "third"], "split is 'third': input should be 'half' or 'same'"), (["--target", "x"], "target is 'x'"),
        (["--quantization", "2bit"], "quantization is '2bit'"), (["--alpha", "1.5"], "alpha is 1.5"),
        (["--top", "0"], "top is 0"), (["--noise", "0"], "noise is 0"), (["--aggregate", "median"], "aggregate is 'median'"),
        (["--positions", "nowhere"], "positions is 'nowhere'"), (["--scorer", "x"], "scorer 'x'"),
        (["--mask", "half"], "mask 'half' is unknown"), (["--mask", "scale:x"], "mask is 'scale:x'; expected scale:NUMBER"),
        (["--mask-positions", "x"], "positions is 'x'"), (["--layers", "x"], "layers"), (["--criterion", "x"], "criterion 'x'"),
        (["--criterion", "nowhere.yaml"], "nowhere.yaml cannot be read"), (["--force"], "give them with --neurons FILE"),
        (["--nonsense"], "No such option: --nonsense"), (["--samples"], "'--samples' requires"),
        (["tiny-llava", "tiny-llava"], "unexpected extra argument"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(tmp_path: Path, words: list[str], message: str):
    assert message in complaint("study", "--out", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    def interrupted(study: Study, start: str | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "run", interrupted)
    result = run("study")
    assert result.exit_code == 130
    assert result.stderr.startswith("lesion: interrupted; to go on where this stopped: lesion")


def test_commands_that_cannot_be_read():
    assert "No such command 'studio'" in complaint("studio")
    assert "Missing argument" in complaint("diff", "one")
    assert complaint("try", "--top", "few").endswith("try --help")
    assert "Invalid value for '--controls'" in complaint("paper", "--controls", "few")
    assert "Invalid value for '--per-category'" in complaint("paper", "--per-category", "few")


# -- the others ----------------------------------------------------------------------------------------------------------
def test_version():
    shown = run("--version")
    assert (shown.exit_code, shown.stdout) == (0, f"lesion {lesion.__version__}\n")


def test_help_lists_the_commands():
    for words in ([], ["--help"]):
        shown = run(*words)
        assert shown.exit_code == 0 and all(name in shown.stdout for name in commands())


def test_where_it_goes_and_where_it_starts(started: Started):
    complaint("study", "--out", "here", "--from", "curve")
    ((_, out, start),) = started
    assert out == Path("here") and start == "curve"


def test_from_a_stage_on(tmp_path: Path):
    folder = tmp_path / "run"
    assert "stage 'nowhere' is unknown" in complaint("study", "--out", folder, "--from", "nowhere", *SMALL)
    assert not folder.exists()
    assert run("study", "--out", folder, *SMALL).exit_code == 0
    artefacts = {name: folder / stage.artefact for name, stage in STAGES.items()}

    def files() -> dict[str, int]:  # every file is written under another name and renamed: a new one has another number
        return {name: path.stat().st_ino for name, path in artefacts.items()}

    kept = {name: folder / f"{path.name}.link" for name, path in artefacts.items()}
    for name, path in artefacts.items():
        kept[name].hardlink_to(path)  # so that a file's number is not used again
    before, report = files(), (folder / "report.html").read_text()
    assert run("study", "--out", folder, *SMALL).exit_code == 0 and files() == before
    again = run("study", "--out", folder, "--from", "collapse", *SMALL)
    assert again.exit_code == 0, again.output
    new = {name for name, number in files().items() if number != before[name]}
    assert new == {"collapse", "confirmed", "minimal", "controls", "blind", "search", "result"}
    assert (folder / "report.html").read_text() == report


def test_a_study_writes_its_report_and_figures(tmp_path: Path):
    result = run("study", "--out", tmp_path / "run", "--json", *SMALL)
    assert result.exit_code == 0, result.output
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"curve.svg", "curve.png", "map.svg", "map.png"}
    assert json.loads(result.stdout) == json.loads((tmp_path / "run" / "result.json").read_text())


def test_neurons_of_another_model_need_force(tmp_path: Path):
    run("study", "--out", tmp_path / "one", *SMALL)
    own = tmp_path / "own.json"
    vlm = load("tiny-llava")
    top = Ranking.load(tmp_path / "one" / "ranking.csv", vlm.sites.select("language", "gate")).top(2)
    NeuronSet(top, vlm.identity()).save(own)
    data = json.loads(own.read_text())
    data["model"] |= {"base": "elsewhere", "weights": "0" * 64}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    assert run("study", "--out", tmp_path / "two", "--neurons", own, *SMALL).exit_code == 0
    refused = complaint("study", "--out", tmp_path / "three", "--neurons", other, *SMALL)
    assert "found in elsewhere" in refused and "--force" in refused
    assert not (tmp_path / "three" / "result.json").exists()
    forced = run("study", "--out", tmp_path / "four", "--neurons", other, "--force", *SMALL)
    assert forced.exit_code == 0, forced.output
    notes = json.loads((tmp_path / "four" / "result.json").read_text())["notes"]
    assert any("elsewhere" in note and "--force" in note for note in notes)
    assert "elsewhere" in forced.stdout
