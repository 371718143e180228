"""No network unless asked, no unpickling, and no write but to where results are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.security.watched import CONNECTIONS, run

FEW = ["--samples", "2", "--max-k", "4", "--controls", "0", "--max-new-tokens", "4"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    """Every kind of command on an embedded model and on images of one's own."""
    folder = tmp_path_factory.mktemp("watched")
    for i in range(2):
        (folder / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), (200 * i, 90, 0)).save(folder / "photos" / f"{i}.png")
    commands = [
        ["sites", "tiny-llava"], ["doctor", "tiny-llava"], ["study", "tiny-llava", *FEW, "--out", "run"],
        ["study", "tiny-llava", "--data", "photos", "--clip", "none", *FEW, "--out", "own"], ["show", "run"], ["report", "run"],
        ["diff", "run", "own"], ["try", "tiny-llava", "photos/0.png", "--run", "run", "--top", "2"],
    ]  # fmt: skip
    return folder, commands, *run(commands, folder)


def test_the_commands_work_with_the_network_blocked(done: tuple):
    folder, commands, codes, seen, said = done
    assert codes == [0] * len(commands), said
    assert (folder / "run" / "report.html").exists() and (folder / "own" / "result.json").exists(), said
    assert [event for event in seen if event[0] in CONNECTIONS] == []


def test_nothing_is_unpickled(done: tuple):
    assert [event for event in done[3] if event[0] == "pickle.find_class"] == []


def test_nothing_is_written_elsewhere(done: tuple):
    """Results go below the run directories; caches and temporary files are the libraries' own."""
    folder, seen = done[0], done[3]
    written = [Path(what) for event, what in seen if event == "open" and what != "/dev/null"]
    places = [folder / name for name in ("run", "own", "caches", "temporary")]
    assert any(path.is_relative_to(folder / "run") for path in written)
    assert [path for path in written if not any(path.is_relative_to(place) for place in places)] == []


def test_what_names_the_hub_does_ask_for_it(tmp_path: Path):
    """The same block is felt where the network is asked for: the test above could fail."""
    codes, seen, said = run([["sites", "owner/no-such-model"]], tmp_path)
    assert codes == [130] and [event for event in seen if event[0] in CONNECTIONS], said


def test_a_write_and_an_unpickled_object_are_noted(tmp_path: Path):
    before = "import pickle, collections; open('x', 'w').close(); pickle.loads(pickle.dumps(collections.OrderedDict()))"
    _, seen, _ = run([["--version"]], tmp_path, before)
    assert ("open", str(tmp_path.resolve() / "x")) in seen and any(event == "pickle.find_class" for event, _ in seen)
