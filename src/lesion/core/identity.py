"""The :class:`Identity` of a model: what was measured belongs to one, and is refused by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lesion.core.parsing import short, text_of


@dataclass(frozen=True)
class Identity:
    """Which model it is.

    Attributes:
        base: The name that it was loaded by, for people; it does not make two models different.
        revision: Commit of the hub; None where there is none. It does not make two models different either.
        weights: Hash of every weight and buffer (:mod:`lesion.models.identity`).
        dtype: Of the weights in memory; the same checkpoint in another dtype has other weights.
        edits: What was done to the weights since they were loaded, such as a merged mask, in order.
        config: Hash of what the configuration says of the computation.
    """

    base: str
    weights: str
    revision: str | None = None
    dtype: str = ""
    edits: tuple[str, ...] = ()
    config: str = ""

    @property
    def key(self) -> str:
        """For keys of evaluations: the same for the same weights and configuration, whatever they are called."""
        return f"{self.weights}{self.config}"

    def __str__(self) -> str:
        revision = f"@{self.revision[:12]}" if self.revision else ""
        edits = f", edited: {', '.join(self.edits)}" if self.edits else ""
        dtype = f" in {self.dtype}" if self.dtype else ""
        config = f", configuration {self.config[:6]}" if self.config else ""
        return f"{self.base}{revision}{dtype} (weights {self.weights[:12]}{config}{edits})"

    def differs_from(self, other: Identity | None) -> bool:
        """Whether what was measured on the other must be refused by this one."""
        return other is not None and self.key != other.key

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "edits": list(self.edits)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Identity:
        """From :meth:`as_dict`.

        Raises:
            KeyError, TypeError: Not an identity.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a model is {short(data)}; expected an object")
        base, weights = (text_of(data[name], name) for name in ("base", "weights"))
        config, dtype = (text_of(data.get(name) or "", name) for name in ("config", "dtype"))
        revision, edits = data.get("revision"), data.get("edits") or []
        if not isinstance(edits, list):
            raise TypeError(f"edits is {short(edits)}; expected a list")
        named = None if revision is None else text_of(revision, "revision")
        return cls(base, weights, named, dtype, tuple(text_of(edit, "an edit") for edit in edits), config)
