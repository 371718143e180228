"""The run directory: resuming, damage, locks, and never touching what is not its own."""

from __future__ import annotations

import json

import pytest

from lesion.core.errors import OptionError, RunError
from lesion.core.files import write_bytes, write_text
from lesion.core.outcome import Likelihood
from lesion.study import rundir
from lesion.study.options import StudyOptions
from lesion.study.rundir import CONFIG, EVALUATIONS, RunDirectory
from tests.synthetic import point

OPTIONS = StudyOptions.parse()
MEASURED = point(1, [0.5, float("nan")], [30.0, 20.0])


def add(run, key):
    run.add_evaluations([(key, {"kind": "mask", "neurons": 1}, MEASURED)])


def test_evaluations_survive(tmp_path):
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        add(run, "a")
        add(run, "b")
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        kept = run.evaluation("a")
        assert kept is not None and (kept.k, kept.outcomes, kept.key) == (1, MEASURED.outcomes, "a")
        assert run.evaluation("b") is not None and run.evaluation("c") is None
    assert "NaN" not in (tmp_path / "run" / EVALUATIONS).read_text()


def test_readings_survive_beside_evaluations(tmp_path):
    parts = [Likelihood(0.5, 3), Likelihood(None, 2)]
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        run.add_readings([("a", 2, parts)])
        add(run, "b")
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        assert run.reading("a") == parts and run.evaluation("a") is None and run.reading("b") is None


@pytest.mark.parametrize(("count", "room", "kept"), [(3, 10**6, 3), (10, 10**6, 2), (10, 1, 1)])
def test_few_evaluations_are_kept_in_memory(tmp_path, monkeypatch, count, room, kept):
    """Few lines where they are long: one of a million samples takes gigabytes."""
    monkeypatch.setattr(rundir, "RECENT", min(count, kept))
    monkeypatch.setattr(rundir, "ROOM", room)
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        for i in range(count):
            add(run, str(i))
        for _ in range(2):
            assert all(run.evaluation(str(i)) is not None for i in range(count))
        assert len(run._recent) == kept


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_that_was_cut_off_is_measured_again(tmp_path, cut):
    path = tmp_path / "run" / EVALUATIONS
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        add(run, "a")
        add(run, "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        assert run.evaluation("a") is not None and run.evaluation("b") is None
        add(run, "b")
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path):
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        add(run, "a")
    path = tmp_path / "run" / EVALUATIONS
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(RunError, match="line 1 is damaged"), RunDirectory.open(tmp_path / "run", OPTIONS):
        pass


def test_another_study_is_refused_and_left_alone(tmp_path):
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        add(run, "a")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    other = StudyOptions.parse(role="down")
    with pytest.raises(RunError, match=r"another study \(role is 'gate' there, 'down' here\)"):
        RunDirectory.open(tmp_path / "run", other).__enter__()
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    with RunDirectory.open(tmp_path / "run", StudyOptions.parse(batch_size=3, device="cpu")):
        pass  # these do not change what is found


def test_other_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no study"):
        RunDirectory.open(tmp_path, OPTIONS).__enter__()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        RunDirectory.open(tmp_path / "thesis.tex", OPTIONS).__enter__()


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / CONFIG).write_text("role: [")
    with pytest.raises(RunError, match=r"config\.yaml is not a study's configuration"):
        RunDirectory.open(tmp_path, OPTIONS).__enter__()


def test_two_processes_do_not_share_a_folder(tmp_path):
    with RunDirectory.open(tmp_path / "run", OPTIONS), pytest.raises(RunError, match="another process is working"):
        RunDirectory.open(tmp_path / "run", OPTIONS).__enter__()
    with RunDirectory.open(tmp_path / "run", OPTIONS):
        pass


def test_the_config_replays_the_run(tmp_path):
    options = StudyOptions.parse(role="down", alpha=0.5, samples=7, max_k=9, layers="3-5", mask="scale:0.5", criterion="task")
    with RunDirectory.open(tmp_path / "run", options):
        pass
    assert StudyOptions.from_yaml((tmp_path / "run" / CONFIG).read_text(), "it") == options


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_text(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 2}, "alpha is 2"),
        ({"samples": 0}, "samples is 0: input should be greater than or equal to 1"),
        ({"split": "third"}, "split is 'third'"),
        ({"scorer": "value"}, "'value' gives no ranking; available: activation"),
        ({"scorer": "best"}, "'best' is unknown"),
        ({"speed": 9}, "unknown option 'speed'; available: model, data"),
        ({"prompt": ""}, "prompt is ''"),
        ({"top": 0}, "top is 0"),
        ({"noise": 0}, "noise is 0"),
        ({"layers": "5-3"}, "layers is '5-3'; expected numbers and ranges"),
        ({"mask": "half"}, "'half' is unknown"),
        ({"mask_positions": "last"}, "positions is 'last'; expected one of all, first, image, text, generated"),
        ({"criterion": "best"}, "criterion 'best' is unknown; available: paper, perplexity, degeneration, task"),
        ({"force": True}, "force is for neurons of another model"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(OptionError, match=message):
        StudyOptions.parse(**values)


def test_lines_are_json(tmp_path):
    with RunDirectory.open(tmp_path / "run", OPTIONS) as run:
        add(run, "a")
    (line,) = (tmp_path / "run" / EVALUATIONS).read_text().splitlines()
    assert json.loads(line)["samples"][1]["reference"] == {"nll": None, "tokens": 10}
