"""Faults: a bit of a number that is not what it should be, in a weight or in what passes through a neuron.

A number is taken as the ``format`` holds it, one of its bits is flipped or stuck, or all of it is lost (``zero``), and what
comes out takes the number's place; every other number stays as the model holds it. Bits count from 0, the lowest of the
mantissa (or of an integer), to the sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lesion.core.errors import OptionError
from lesion.core.sites import Site
from lesion.hooks.edit import BitFlip, parameter_of, register_edit
from lesion.hooks.intervention import Intervention, Where, register_intervention
from lesion.models.feedforward import columns
from lesion.models.tokens import FIRST

if TYPE_CHECKING:
    import torch
    from torch import nn

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}
"""Format -> bits of a number."""
ACTIONS = ("flip", "stuck-at-0", "stuck-at-1", "zero")
"""What becomes of the bit; with ``zero`` the number is 0, whichever the bit."""
INT8_LARGEST = 127
"""int8 is symmetric, with a scale a row: the largest magnitude of the row is this."""


def check_fault(bit: int, action: str, format: str) -> None:
    """Whether there is such a fault.

    Raises:
        OptionError: Unknown format or action, or a bit that the format does not have.
    """
    if format not in BITS:
        raise OptionError(f"format is {format!r}; expected one of {', '.join(BITS)}")
    if action not in ACTIONS:
        raise OptionError(f"fault is {action!r}; expected one of {', '.join(ACTIONS)}")
    if not 0 <= bit < BITS[format]:
        raise OptionError(f"bit is {bit}; a number in {format} has bits 0 to {BITS[format] - 1}")


def faulty(
    values: torch.Tensor, bit: int, action: str = "flip", format: str = "fp32", scale: torch.Tensor | None = None
) -> torch.Tensor:
    """Numbers with a bit that is wrong.

    Args:
        values: Any shape, floating-point.
        bit: Which.
        action: See :data:`ACTIONS`.
        format: See :data:`BITS`.
        scale: What 1 stands for in ``int8``, of a shape that broadcasts to the values'; 0 in a row of zeros, which stays so.

    Returns:
        In the dtype of ``values``; it may be infinite or NaN.
    """
    import torch

    check_fault(bit, action, format)
    if action == "zero":
        return torch.zeros_like(values)
    if format == "int8":
        assert scale is not None
        # In single precision: a scale of few bits would put numbers into the wrong step.
        scale = scale.float()
        stored = torch.where(scale > 0, values.float() / scale, 0.0).round().clamp(-INT8_LARGEST, INT8_LARGEST)
        return (_wrong(stored.to(torch.int8), bit, action).float() * scale).to(values.dtype)
    kinds = {
        "fp32": (torch.float32, torch.int32), "fp16": (torch.float16, torch.int16), "bf16": (torch.bfloat16, torch.int16)
    }
    kind, whole = kinds[format]
    return _wrong(values.to(kind).contiguous().view(whole), bit, action).view(kind).to(values.dtype)


def _wrong(bits: torch.Tensor, bit: int, action: str) -> torch.Tensor:
    size = 8 * bits.itemsize
    one = -(2 ** (size - 1)) if bit == size - 1 else 2**bit  # the sign bit is the lowest number of its type
    if action == "flip":
        return bits ^ one
    return bits | one if action == "stuck-at-1" else bits & ~one


@register_edit("fault")
@dataclass(frozen=True)
class WeightFault(BitFlip):
    """A wrong bit in one weight, as a format holds it.

    Attributes:
        action: See :data:`ACTIONS`.
        format: See :data:`BITS`.
        site: Whose weight it is, which says below what the intact model's states hold; None where that is not known.
    """

    action: str = "flip"
    format: str = "fp32"
    site: Site | None = None

    @property
    def id(self) -> str:
        return f"{self.action} {self.format} {self.parameter}[{', '.join(map(str, self.index))}] bit {self.bit}"

    @property
    def sites(self) -> tuple[Site, ...] | None:
        return None if self.site is None else (self.site,)

    def as_dict(self) -> dict[str, Any]:
        return {
            "parameter": self.parameter, "index": list(self.index), "bit": self.bit, "action": self.action,
            "format": self.format, "site": None if self.site is None else self.site.key,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any], sites: Any) -> WeightFault:
        own = {**data, "index": tuple(data["index"])}
        return cls(**{**own, "site": None if data["site"] is None else sites.get(data["site"])})

    def bits(self, weight: torch.Tensor) -> int:
        check_fault(self.bit, self.action, self.format)
        return BITS[self.format]

    def apply(self, model: nn.Module) -> None:
        for entry in self.parts(model):
            scale = self._scale(model) if self.format == "int8" else None
            entry.copy_(faulty(entry, self.bit, self.action, self.format, scale))

    def _scale(self, model: nn.Module) -> torch.Tensor:
        """Of the entry's row: of the weights that make one output."""
        weight = parameter_of(model, self.parameter)
        if weight.ndim < 2:
            return weight.abs().max().float() / INT8_LARGEST
        module = model.get_submodule(self.parameter.rpartition(".")[0])
        row = self.index[0] if columns(module, weight) is weight else self.index[1]
        return columns(module, weight)[row].abs().max().float() / INT8_LARGEST


@register_intervention("fault")
@dataclass(frozen=True, kw_only=True)
class ActivationFault(Intervention):
    """A wrong bit in what passes through neurons, at every token that the intervention acts on, in every pass.

    Attributes:
        bit: Which.
        action: See :data:`ACTIONS`.
        format: See :data:`BITS`; not ``int8``, in which activations have no scale of their own.
    """

    bit: int = 0
    action: str = "flip"
    format: str = "fp32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bit % 1 != 0:  # the command line gives any number as a float
            raise OptionError(f"bit is {self.bit}; expected a whole number")
        object.__setattr__(self, "bit", int(self.bit))
        check_fault(self.bit, self.action, self.format)
        if self.format == "int8":
            raise OptionError("activations have no int8 scale here; take fp32, fp16 or bf16, or faults in weights")

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        return faulty(x, self.bit, self.action, self.format)


@register_intervention("ranged-fault")
@dataclass(frozen=True, kw_only=True)
class RangedFault(ActivationFault):
    """The same, behind which a range check stands: what leaves the range of clean data is put back to its end.

    The ranges are those of the first token and of all others apart (:mod:`lesion.remedies.ranges`), so that the massive value
    of the one does not hide a fault in the others.
    """

    needs: ClassVar[tuple[str, ...]] = ("low", "high")
    first_apart: ClassVar[bool] = True

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        return within(faulty(x, self.bit, self.action, self.format), at)


@register_intervention("range-check")
@dataclass(frozen=True, kw_only=True)
class RangeCheck(Intervention):
    """Leaves neurons as they are, but puts what leaves the range of clean data back to its end."""

    needs: ClassVar[tuple[str, ...]] = ("low", "high")
    first_apart: ClassVar[bool] = True

    def value(self, x: torch.Tensor, at: Where) -> torch.Tensor | float:
        return within(x, at)


def within(x: torch.Tensor, at: Where) -> torch.Tensor:
    """Values put back into their ranges; NaN becomes the middle of its range.

    Args:
        x: ``[..., members]``.
        at: With the statistics ``low`` and ``high``, each ``[2, members]``: of the first token, and of all others.
    """
    import torch

    row = (at.classes() != FIRST).long()
    low, high = at.statistics["low"][row], at.statistics["high"][row]
    x = torch.where(torch.isnan(x), (low + high) / 2, x)
    return torch.minimum(torch.maximum(x, low), high)
