"""``lesion schema``."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON schema of result.json, for those who read it with other programs."""
    from lesion.study.result import Result

    typer.echo(json.dumps(Result.schema_of_file(), indent=1))
