"""Something that was :class:`Measured`: an entry of ``result.json`` with every metric by its name beside its own fields."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Metrics = dict[str, float | None]


class Measured(BaseModel):
    """Something with every metric by its name beside its own fields."""

    model_config = ConfigDict(extra="allow")

    @property
    def metrics(self) -> Metrics:
        return dict(self.__pydantic_extra__ or {})
