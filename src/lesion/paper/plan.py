"""A :class:`Plan`: what the experiments vary; what they share is in :class:`lesion.study.options.StudyOptions`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lesion.core.errors import OptionError
from lesion.core.sites import Role
from lesion.scoring.options import AGGREGATES, POSITIONS, Aggregate, Positions, ScoreOptions
from lesion.scoring.scorers import get_scorer, rankers
from lesion.study.options import first_complaint
from lesion.study.published import known

SCORERS = ("activation", "gradient", "taylor", "wanda", "superweight", "perturbation", "random")


class Plan(BaseModel):
    """The size of the experiment matrix. The defaults are the full one; :data:`QUICK` is what ``--quick`` changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role = Field("gate", description="the language model's role on which images, categories and methods are compared")
    per_category: int = Field(16, ge=2, description="images of each category, one half to rank on and one to measure on")
    alphas: tuple[float, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0), description="exponents of the gradient in CAN")
    aggregates: tuple[Aggregate, ...] = Field(AGGREGATES, description="over tokens")
    position_sets: tuple[Positions, ...] = Field(POSITIONS, description="tokens that count")
    scorers: tuple[str, ...] = Field(SCORERS, description="other rankings than CAN's")
    image_counts: tuple[int, ...] = Field((1, 2, 4, 8), description="numbers of images to rank on, besides all")
    trials: int = Field(60, ge=1, description="masks tried for a minimal set that is too large to try each neuron")
    examples: int = Field(4, ge=1, description="images whose answers are shown")
    expect: str | None = Field(None, description="whose known coordinates; default: by the model's name")

    @classmethod
    def parse(cls, **options: Any) -> Plan:
        """Checks a plan.

        Raises:
            OptionError: A value that makes no sense; one line for the first of them.
        """
        try:
            plan = cls(**options)
        except ValidationError as error:
            raise OptionError(first_complaint(error, cls)) from None
        for name in plan.scorers:
            if not get_scorer(name).ranks:
                raise OptionError(f"scorer {name!r} gives no ranking; available: {', '.join(rankers())}")
        if plan.expect is not None:
            known(plan.expect)
        for alpha in plan.alphas:
            ScoreOptions(alpha=alpha)
        return plan


QUICK_PLAN: dict[str, Any] = {
    "per_category": 8, "alphas": (0.0, 0.5, 1.0), "aggregates": ("mean", "max"), "position_sets": ("all", "answer"),
    "image_counts": (1, 2), "trials": 12,
}  # fmt: skip
QUICK_STUDY: dict[str, Any] = {"samples": 8, "controls": 5, "max_new_tokens": 32}
"""What ``--quick`` changes; the options of a user go before it. Fewer images or controls could tell nothing: an interval takes
four measured images, and five random sets are the fewest that can show that luck does less."""
