""":class:`CleanWeights`: copies of some rows and columns of a model's weights, with checksums, to find damage and undo it.

What the model has is compared with the copies bit by bit, on the model's own device: a check reads the guarded weights and
nothing else. Before a copy is written back, its checksum is looked at: a guard that was damaged itself repairs nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lesion.core.errors import ModelError
from lesion.core.files import write_bytes
from lesion.core.neurons import NeuronSet
from lesion.core.parsing import short
from lesion.core.sites import Sites
from lesion.hooks.edit import WeightEdit, parameter_of, register_edit
from lesion.models.neuron_weights import Line, wiring_of

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT = "lesion-guard-1"
_HEAD = "lesion"
"""Of the file's metadata: 8 digits, the CRC-32 of the JSON behind them, which has every tensor's: no damage goes unseen."""


class Damage(NamedTuple):
    """A guarded row or column that is not as it was.

    Attributes:
        line: Which.
        entries: So many of its entries have other bits.
    """

    line: Line
    entries: int

    def __str__(self) -> str:
        return f"{self.line}: {self.entries:,} {'entry' if self.entries == 1 else 'entries'}"


@dataclass(frozen=True, eq=False)
class CleanWeights:
    """Copies of rows and columns.

    Attributes:
        copies: Parameter and dimension -> the indices, int64 ``[lines]``, and the copies, one a row ``[lines, entries]``.
        checksums: Parameter and dimension -> CRC-32 of each line's bytes.
    """

    copies: Mapping[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]
    checksums: Mapping[tuple[str, int], Sequence[int]] = field(repr=False)

    @classmethod
    def of(cls, model: nn.Module, neurons: NeuronSet) -> CleanWeights:
        """Copies what some neurons are made of.

        Raises:
            ModelError: Weights are an expert's, offloaded or quantised.
        """
        import torch

        wiring, wanted = wiring_of(model), dict[tuple[str, int], set[int]]()
        for neuron in neurons:
            for line in wiring.lines(neuron.site, neuron.index):
                wanted.setdefault((line.parameter, line.dim), set()).add(line.at)
        copies = {}
        for (name, dim), members in sorted(wanted.items()):
            indices = torch.tensor(sorted(members))
            copies[name, dim] = indices, _lines(parameter_of(model, name), dim, indices).cpu().clone()
        return cls(copies, {key: [_crc(row) for row in rows] for key, (_, rows) in copies.items()})

    @property
    def lines(self) -> int:
        """How many rows and columns."""
        return sum(len(indices) for indices, _ in self.copies.values())

    @property
    def entries(self) -> int:
        """How many weights; one that is in a row and in a column counts twice."""
        return sum(rows.numel() for _, rows in self.copies.values())

    @property
    def size(self) -> int:
        """Bytes of the copies."""
        return sum(rows.numel() * rows.itemsize for _, rows in self.copies.values())

    def bound(self, model: nn.Module) -> Bound:
        """For checks of one model, one after the other.

        Raises:
            ModelError: The model has not the guarded weights, or in another dtype.
        """
        parts = []
        for (name, dim), (indices, rows) in self.copies.items():
            weight = parameter_of(model, name)
            if weight.dtype != rows.dtype:
                raise ModelError(f"{name} is in {weight.dtype}, and the guard holds {rows.dtype}; give the guard's --dtype")
            entries = weight[0].numel() if dim == 0 else weight.shape[0]
            if entries != rows.shape[1] or int(indices.max()) >= weight.shape[dim]:
                shape = tuple(weight.shape)
                raise ModelError(f"{name} has shape {shape}, which does not fit the guard; is it another model's?")
            parts.append(_Part(name, dim, weight, indices.to(weight.device), rows.to(weight.device), self.checksums[name, dim]))
        return Bound(parts)

    # -- as a file -----------------------------------------------------------------------------------------------------
    def save(self, path: str | Path, about: Mapping[str, Any] | None = None, more: Mapping[str, torch.Tensor] | None = None):
        """Writes a safetensors file.

        Args:
            path: Where; folders are made.
            about: What JSON can hold, kept with it.
            more: Other tensors, by names that begin with a letter.
        """
        from safetensors.torch import save

        tensors, keys = dict(more or {}), list(self.copies)
        for number, key in enumerate(keys):
            tensors[f"{number}/indices"], tensors[f"{number}/copies"] = self.copies[key]
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        head = {
            **(about or {}), "format": FORMAT, "weights": [[name, dim] for name, dim in keys],
            "checksums": [list(self.checksums[key]) for key in keys], "tensors": {k: _crc(t) for k, t in tensors.items()},
        }  # fmt: skip
        text = json.dumps(head, sort_keys=True)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(tensors, {_HEAD: f"{zlib.crc32(text.encode()):08x}{text}"}))

    @staticmethod
    def load(path: str | Path) -> tuple[CleanWeights, dict[str, Any], dict[str, torch.Tensor]]:
        """From :meth:`save`: the copies, what was kept with them, and the other tensors.

        Raises:
            ModelError: No such file, or no guard; or a byte of it is not as it was written.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                about = (file.metadata() or {})[_HEAD]
                head = json.loads(about[8:])
                if about[:8] != f"{zlib.crc32(about[8:].encode()):08x}":
                    raise ValueError("the head is another")
                if head["format"] != FORMAT:
                    raise ModelError(f"{path} is a guard of format {short(head['format'])}; expected {FORMAT}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if {name: _crc(tensor) for name, tensor in tensors.items()} != head["tensors"]:
                raise ValueError("a tensor is another")
            copies = {
                (str(name), int(dim)): (tensors.pop(f"{i}/indices"), tensors.pop(f"{i}/copies"))
                for i, (name, dim) in enumerate(head["weights"])
            }
            checksums = {key: [int(crc) for crc in crcs] for key, crcs in zip(copies, head["checksums"], strict=True)}
            _check_shapes(copies, checksums)
        except FileNotFoundError:
            raise ModelError(f"no guard at {path}; expected a file that `lesion guard make` wrote") from None
        except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{path} is no guard, or damaged; expected a file that `lesion guard make` wrote") from None
        return CleanWeights(copies, checksums), head, tensors


class Bound:
    """Copies beside the weights of one model."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts

    def check(self) -> list[Damage]:
        """Compares all guarded weights with their copies, bit by bit."""
        return [damage for part in self._parts for damage, _ in part.damages()]

    def repair(self) -> list[Damage]:
        """Writes copies back where weights differ.

        Returns:
            What was found, and is mended.

        Raises:
            ModelError: A copy that is needed is damaged itself; nothing was written.
        """
        import torch

        found = [(part, damage, at) for part in self._parts for damage, at in part.damages()]
        for part, damage, at in found:
            if _crc(part.rows[at]) != part.checksums[at]:
                raise ModelError(f"the guard's own copy of {damage.line} is damaged, so nothing was repaired; make it anew")
        with torch.no_grad():
            for part, damage, at in found:
                part.weight.select(part.dim, damage.line.at).copy_(part.rows[at].view_as(part.weight.select(part.dim, 0)))
        return [damage for _, damage, _ in found]


@dataclass(frozen=True)
class _Part:
    """Lines of one parameter."""

    name: str
    dim: int
    weight: torch.Tensor
    indices: torch.Tensor
    rows: torch.Tensor
    checksums: Sequence[int]

    def damages(self) -> Iterator[tuple[Damage, int]]:
        """Each damaged line, and its place among the copies."""
        import torch

        now = _lines(self.weight, self.dim, self.indices)
        if torch.equal(_bits(now), _bits(self.rows)):
            return
        differing = (_bits(now) != _bits(self.rows)).sum(1)
        for at in differing.nonzero().flatten().tolist():
            yield Damage(Line(self.name, self.dim, int(self.indices[at])), int(differing[at])), at


@register_edit("restored")
@dataclass(frozen=True)
class Restored(WeightEdit):
    """Puts back whatever the edits before it did to guarded weights, as a guard does.

    Attributes:
        path: The guard's file; other processes read it there too.
    """

    path: str

    @property
    def id(self) -> str:
        return "restored by a guard"

    @property
    def sites(self) -> tuple[()]:
        return ()  # it makes nothing other than what it was

    def as_dict(self) -> dict[str, Any]:
        return {"path": self.path}

    @classmethod
    def from_dict(cls, data: dict[str, Any], sites: Sites) -> Restored:
        return cls(data["path"])

    def parts(self, model: nn.Module) -> Iterator[torch.Tensor]:
        for (name, dim), (indices, _) in self._read().copies.items():
            weight = parameter_of(model, name)
            yield from (weight.select(dim, i) for i in indices.tolist())

    def apply(self, model: nn.Module) -> None:
        self._read().bound(model).repair()

    def _read(self) -> CleanWeights:
        try:
            about = Path(self.path).stat()
        except OSError:
            return CleanWeights.load(self.path)[0]  # says what is wrong
        return _kept(self.path, about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=2)
def _kept(path: str, *_: int) -> CleanWeights:
    """Read once as long as the file is the same one."""
    return CleanWeights.load(path)[0]


def _lines(weight: torch.Tensor, dim: int, indices: torch.Tensor) -> torch.Tensor:
    """Some rows or columns as rows, ``[lines, entries]``."""
    chosen = weight.detach().index_select(dim, indices.to(weight.device)).movedim(dim, 0)
    return chosen.reshape(len(indices), -1).contiguous()


def _bits(values: torch.Tensor) -> torch.Tensor:
    """As whole numbers, of which NaN are equal too where their bits are."""
    import torch

    return values.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.itemsize])


def _crc(row: torch.Tensor) -> int:
    import torch

    return zlib.crc32(row.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _check_shapes(copies: Mapping[Any, tuple[torch.Tensor, torch.Tensor]], checksums: Mapping[Any, Sequence[int]]) -> None:
    """Whether what a file holds fits together."""
    for key, (indices, rows) in copies.items():
        if indices.ndim != 1 or rows.ndim != 2 or not len(indices) or len({len(indices), len(rows), len(checksums[key])}) > 1:
            raise ValueError("the copies of a parameter do not fit together")
        if indices.is_floating_point() or int(indices.min()) < 0 or not rows.is_floating_point():
            raise ValueError("the copies of a parameter are of a wrong kind")
