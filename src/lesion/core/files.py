"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a temporary file beside ``path``, flushes it to disk, and renames it over ``path``."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_bytes`, UTF-8."""
    write_bytes(path, text.encode())


def _umask() -> int:
    # mkstemp makes files that only their owner can read; a run directory is often shared. Reading the umask is only
    # possible by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
