"""The command line: a file a group of commands, and what the terminal shows beside it."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``lesion`` command."""
    from lesion.cli.app import app

    app()
