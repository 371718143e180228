"""One writer a run directory, also on a file system that several machines share.

The lock is the operating system's where the file system has one, and goes with its process, however that ends. Where it has
none, ``filelock`` keeps a file that names its owner, and takes over one whose owner is dead.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lesion.core.errors import RunError

LOCK, OWNER = ".lock", ".lock.owner"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run directory, which is made where it is not there.

    Raises:
        RunError: Another process works there, or the folder cannot be written.
    """
    lock, there = FileLock(folder / LOCK, timeout=0, thread_local=False), folder.exists()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flock not supported")  # the other kind of lock does as well
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            known = owner(folder)
            who = "" if known is None else f" ({known})"
            raise RunError(f"another process is working in {folder}{who}; wait for it, or choose another --out") from None
        except OSError as error:
            raise RunError(f"{folder} cannot be used as a run directory: {error.strerror or error}") from None
    try:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(" ", "seconds")}
        with suppress(OSError):
            (folder / OWNER).write_text(json.dumps(about) + "\n")
        yield
    finally:
        with suppress(OSError):
            (folder / OWNER).unlink()
            if not there and [path.name for path in folder.iterdir()] == [LOCK]:
                # Nothing came to be in it, as on a full disk.
                (folder / LOCK).unlink()
                folder.rmdir()
        lock.release()


def owner(folder: Path) -> str | None:
    """Who works in a run directory, as far as can be read; None where nobody is known to."""
    try:
        about = json.loads((folder / OWNER).read_text())
        pid, host, since = int(about["pid"]), str(about["host"]), str(about["since"])
        gone = host == socket.gethostname() and not _lives(pid)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # a file that lies here decides nothing
        return None
    return None if gone else f"process {pid} on {host}, since {since}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
