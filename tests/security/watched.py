"""Runs commands of lesion in a process of its own, in which every connection, every unpickled object and every write is noted.

Python tells of them by audit events, also where a library does them. Such a hook cannot be taken away, hence the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg", "socket.bind")
_CHANGES = ("os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree", "shutil.move")
_SCRIPT = """
import json, os, sys

seen, watching = [], True

def note(event, args):
    if not watching:
        return
    if event in {connections!r}:
        seen.append((event, repr(args)))
        raise KeyboardInterrupt  # which no library takes for a network that is down, to try again
    if event == "pickle.find_class" or event in {changes!r}:
        seen.append((event, repr(args)))
    if event == "open" and isinstance(args[0], (str, bytes)):
        path, mode, flags = args
        if any(c in (mode or "") for c in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append((event, os.path.realpath(os.fsdecode(path))))

sys.addaudithook(note)
{before}
from lesion.cli.app import app

codes = []
for words in json.loads(sys.argv[1]):
    try:
        app(words)
    except SystemExit as end:
        codes.append(end.code)
watching = False
with open("seen.json", "w") as file:
    json.dump([codes, seen], file)
"""


def run(commands: Sequence[Sequence[str]], folder: Path, before: str = "") -> tuple[list[int], list[tuple[str, str]], str]:
    """Runs commands in a folder.

    Args:
        commands: Each the words behind ``lesion``.
        folder: Where; the caches of all libraries are below it too.
        before: Python that is run first.

    Returns:
        The exit codes, what was noted, and what was printed.
    """
    out = folder / "temporary"
    out.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    places = {name: str(folder / "caches") for name in ("HF_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "LESION_CACHE")}
    environment: dict[str, Any] = {**kept, **places, "TMPDIR": str(out), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    script = _SCRIPT.format(connections=CONNECTIONS, changes=_CHANGES, before=before)
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (folder / "seen.json").exists(), done.stderr
    codes, seen = json.loads((folder / "seen.json").read_text())
    return codes, [(event, what) for event, what in seen], done.stdout + done.stderr
