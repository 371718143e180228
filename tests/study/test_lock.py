"""One writer a run directory: what another is told, and what a dead one leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lesion.core.errors import RunError
from lesion.study.lock import LOCK, OWNER, locked

HOLD = """
import sys, time
from pathlib import Path
from lesion.study.lock import locked
{before}
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
NO_FLOCK = """
import errno, fcntl
def missing(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = missing
"""


def holder(folder: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that has the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(before=before), folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_a_dead_one_is_not_in_the_way(tmp_path):
    process = holder(tmp_path)
    says = rf"working in {re.escape(str(tmp_path))} \(process {process.pid} on .+, since 2\d{{3}}-.*\); wait for it"
    with pytest.raises(RunError, match=says), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / OWNER).read_text()
    assert not (tmp_path / OWNER).exists()


def test_so_it_is_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    process = holder(tmp_path, NO_FLOCK)
    monkeypatch.setattr("fcntl.flock", _missing)
    with pytest.raises(RunError, match="another process is working"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def _missing(*_: object) -> None:
    import errno

    raise OSError(errno.ENOSYS, "Function not implemented")


def test_two_threads_of_one_process_do_not_share_it_either(tmp_path):
    said: list[str] = []

    def second() -> None:
        try:
            with locked(tmp_path):
                said.append("held twice")
        except RunError as error:
            said.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(said) == 1 and "another process is working" in said[0]


def test_what_lies_in_the_owners_file_decides_nothing(tmp_path):
    for text in ("", "[]", '{"pid": "x"}', "\0"):
        (tmp_path / OWNER).write_text(text)
        with locked(tmp_path):
            (tmp_path / OWNER).write_text(text)
            with pytest.raises(RunError, match=rf"working in {re.escape(str(tmp_path))}; wait"), locked(tmp_path):
                pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used as a run directory: Not a directory"), locked(tmp_path / "file" / "run"):
        pass
