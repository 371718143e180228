"""Whether a GGUF file has room for what its head says that it holds.

gguf's own reader takes every length on trust: a list that claims 2**60 numbers has it run until the memory is full. So lengths
are held against the file before that reader sees it. Values are passed over, none is kept but the alignment.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

MOST = 2**22
"""Entries of all lists together; a tokenizer of 262,000 words has 1.3 million. gguf makes an object of each."""
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> bytes."""
_UINT32, _TEXT, _LIST = 4, 8, 9
_LEAST = {_TEXT: 8, _LIST: 12}
"""Bytes that an empty text and an empty list take."""
_DEEPEST, _DIMENSIONS = 4, 8


def check(path: Path) -> None:
    """Reads the head alone.

    Raises:
        ValueError: It says something that cannot be; in words.
    """
    with path.open("rb") as file:
        head = _Head(file, os.fstat(file.fileno()).st_size)
        alignment, tensors = 32, head.begin()
        for _ in range(head.pairs):
            key, kind = head.text(), head.number()
            if key == b"general.alignment" and kind == _UINT32:
                alignment = head.number()
            else:
                head.skip(kind)
        ends = [head.tensor() for _ in range(tensors)]
        start = math.ceil(head.at / alignment) * alignment if alignment else 0
        if any(start + end > head.size for end in ends):
            raise ValueError("it is shorter than its tensors")


class _Head:
    """A place in a file, from which nothing is read that the file is too short for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size, self.at, self._order, self._listed = file, size, 0, "<", 0
        self.pairs = 0

    def begin(self) -> int:
        """How many tensors there are; :attr:`pairs` is how many values come before them."""
        self._bytes(4)
        version = self._bytes(4)
        self._order = "<" if int.from_bytes(version, "little") & 0xFFFF else ">"
        tensors, self.pairs = self.number(8), self.number(8)
        # A value takes at least 13 bytes, a tensor 24.
        if tensors * 24 + self.pairs * 13 > self.size - self.at:
            raise ValueError("it is shorter than its head")
        return tensors

    def number(self, size: int = 4) -> int:
        return struct.unpack(self._order + {4: "I", 8: "Q"}[size], self._bytes(size))[0]

    def text(self) -> bytes:
        return self._bytes(self.number(8))

    def skip(self, kind: int, depth: int = 0) -> None:
        """Passes over a value."""
        if kind in _SIZES:
            self._pass(_SIZES[kind])
        elif kind == _TEXT:
            self._pass(self.number(8))
        elif kind == _LIST and depth < _DEEPEST:
            inner, count = self.number(), self.number(8)
            self._listed += count
            if count * _SIZES.get(inner, _LEAST.get(inner, 0)) > self.size - self.at:
                raise ValueError("it is shorter than a list in it")
            if self._listed > MOST:
                raise ValueError(f"its lists have more than {MOST:,} entries")
            if inner in _SIZES:
                self._pass(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self.skip(inner, depth + 1)
        else:
            raise ValueError(f"it has a value of type {kind}, which there is not")

    def tensor(self) -> int:
        """Where a tensor ends, counted from where tensors begin."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        self.text()
        dimensions = self.number()
        if dimensions > _DIMENSIONS:
            raise ValueError(f"it has a tensor of {dimensions:,} dimensions")
        weights = math.prod(self.number(8) for _ in range(dimensions))
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.number())]
        return self.number(8) + weights * size // block

    def _bytes(self, count: int) -> bytes:
        self._pass(count)
        self._file.seek(self.at - count)
        return self._file.read(count)

    def _pass(self, count: int) -> None:
        if count > self.size - self.at:
            raise ValueError("it is shorter than its head")
        self.at += count
