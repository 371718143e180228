""":class:`Origin`: what a model was before lesion changed it, and what a study found there.

``lesion export`` and ``lesion harden`` write it into the folder of the checkpoint; a study of that folder shows it beside what
it finds itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

FILE = "lesion.json"
"""In the folder of a checkpoint."""


class Before(BaseModel):
    """What a study found in the model as it was; the names are those of :class:`lesion.study.result.Result`."""

    model: str
    component: str
    role: str
    scorer: str
    samples: int
    criterion: str
    neurons_total: int
    k_star: int | None
    largest_k: int
    found: int | None = Field(description="size of the set that a measured search found; None without one")
    perplexity: float | None = Field(description="of the intact answers, with nothing masked")


class Origin(BaseModel):
    """What was done to a model."""

    format: Literal["lesion-origin-1"] = "lesion-origin-1"
    did: str = Field(description="in words")
    model: str = Field(description="which model it was")
    neurons: int = Field(description="how many it was done for")
    before: Before | None = Field(description="what a study found there; None where the neurons came without one")

    def write(self, folder: Path) -> None:
        """Into the folder of a checkpoint that is being made."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, model: str) -> Origin | None:
        """Of a model by its name; None where it is no such folder, or what is there cannot be read."""
        try:
            return cls.model_validate_json((Path(model) / FILE).read_bytes())
        except (OSError, ValueError, ValidationError):
            return None
