"""Runs the scripts in ``deploy/`` on this machine, with stand-ins for the commands that it has not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
HERE = {"MODEL": "tiny-llava", "DTYPE": "auto", "DEVICE": "cpu", "REPLICAS": "2", "OMP_NUM_THREADS": "1"}


def environment(bin: Path, **more: str) -> dict[str, str]:
    """With the commands of this environment, and before them those in a folder."""
    path = os.pathsep.join((str(bin), str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, **HERE, "PATH": path, **more}


def command(bin: Path, name: str, text: str) -> None:
    """Puts a stand-in into a folder."""
    bin.mkdir(exist_ok=True)
    (bin / name).write_text(f"#!/bin/bash\n{text}\n")
    (bin / name).chmod(0o755)


def run(script: str, bin: Path, *more: str, **variables: str) -> str:
    done = subprocess.run(
        ["bash", str(DEPLOY / script), *more], env=environment(bin, **variables), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
