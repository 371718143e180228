"""Makes damaged files out of valid ones: by bytes, and by what a format says, so that damage gets past the parser."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from lesion.core.parsing import from_yaml

Kind = Literal["json", "jsonl", "journal", "yaml", "text", "tar", "binary"]
"""What a file is: JSON, a line of it an object, the same with checksums, YAML, lines of text, a tar file, or anything else."""

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
BLOCK = 512
"""Bytes of a tar header."""
_FIELDS = ((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
"""Where a tar header's fields are, and how long; without its checksum."""
_RAW = re.compile(r'"RAW:(.*?):WAR"')


def _raw(text: str) -> str:
    """Stands for text that no JSON writer would write; :func:`_written` puts it in."""
    return f"RAW:{text}:WAR"


def _deep(rng: random.Random) -> str:
    depth = rng.choice((50, 900, 5_000, 100_000))
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
    return _raw((opened * depth + "1" + closed * depth).replace('"', "'"))


EVIL: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.7, 1e308, -1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**63, -(2**63) - 1,
    2**64, 10**30, "", " ", "\n", "a\nb", "\x00", "\x1b[31mred\x1b[0m", "\ud800", "\u2028", "\u202e", "é\u0301", "nan", "1",
    "-1", "1e999", "../../../etc/passwd", "/etc/passwd", "C:\\x", "a/../../b", "$x$", "$\\frac{$", "<script>alert(1)</script>",
    "{{ 7 * 7 }}", "%s%n", "__class__", "x" * 5_000, [], [[]], [1, "a", None], {}, {"": None}, {"a": {"b": [1]}}, [0] * 1_000,
    _raw("9" * 5_000), _raw("-0"), _raw("1e400"), _raw("-Infinity"), _raw("0.1e-400"),
)  # fmt: skip
"""Values that readers may not expect."""
WORDS = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\n\n", b"\t", b",", b'"', b"'", b"\\", b"#", b": ",
    b"- ", b"../", b"/etc/passwd", b"0-99999999999", b"9" * 5_000, b"1e999", b"nan", b"-1", b"x" * 200_000, b"\x1b[2J",
    "\u2028".encode(), b"language-", b":::", b"=1+1", b"\x85",
)  # fmt: skip
"""Pieces of text that readers of lines may not expect."""
YAML_WORDS = (
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary '@'", "!!timestamp x", "!!int x",
    "!!float x", "!!bool x", "!!set {a, b}", "!!omap [a]", "!!pairs [a]", "!!str [a]", "!!map [a]", "2001-99-99", "0x",
    "1:99:99", "190:20:30.15", "&a [*a]", "*nowhere", "<<: 1", "{<<: [1]}", "? [a]\n: b", "{[a]: b}", "{{a: b}: c}", "|\n x",
    ">", "---", "...", "%YAML 9.9", "@", "`", "~", "0o99", "0b", "+.inf", ".nan", "=", "'", '"\\x"', "- - - -", "\t",
)  # fmt: skip
"""Values that YAML reads in ways of its own."""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A few hundred bytes that stand for 9**9 entries."""


def mutate(kind: Kind, data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """A damaged file.

    Args:
        kind: What the files are.
        data: One of the corpus.
        corpus: Valid files of the same kind.
        rng: Decides everything.
    """
    structured = _STRUCTURED.get(kind)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if structured is not None and rng.random() < 0.75:
            data = structured(data, rng)
        else:
            data = rng.choice(_BYTES)(data, corpus, rng)
    return data


# -- bytes -------------------------------------------------------------------------------------------------------------
def _flip(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _replace(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _truncate(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _delete(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 4, 8, 64)) :]


def _splice(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(corpus)
    start, end = sorted((rng.randrange(len(other) + 1), rng.randrange(len(other) + 1)))
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[start:end] + data[at:]


def _repeat(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    times = rng.choice((2, 3, 50))
    return data[:start] + data[start:end] * (times if (end - start) * times < 200_000 else 2) + data[end:]


def _insert(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(WORDS) + data[at:]


def _number(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """Overwrites a place where a length may stand."""
    code = rng.choice(("<B", "<H", "<I", "<Q", ">I", ">Q"))
    size = struct.calcsize(code)
    if len(data) < size:
        return data
    at = rng.randrange(len(data) - size + 1)
    return data[:at] + struct.pack(code, rng.choice(NUMBERS) % 256**size) + data[at + size :]


_BYTES: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _flip, _replace, _truncate, _delete, _splice, _repeat, _insert, _number, _number,
)  # fmt: skip


# -- JSON and what is like it --------------------------------------------------------------------------------------------
def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container of a tree with each of its keys."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        inner: list[tuple[Any, Any]] = (
            list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        )
        found += [(node, key) for key, _ in inner]
        waiting += [value for _, value in inner]
    return found


def _changed(tree: Any, rng: random.Random) -> Any:
    """A tree with one thing in it changed."""
    places = _places(tree)
    if not places or rng.random() < 0.02:
        return rng.choice(EVIL)
    node, key = rng.choice(places)
    how = rng.random()
    if how < 0.45:
        node[key] = rng.choice(EVIL) if rng.random() < 0.97 else _deep(rng)
    elif how < 0.6:
        del node[key]
    elif how < 0.7:
        other, there = rng.choice(places)
        # A copy, so that no container comes to hold itself.
        node[key] = json.loads(json.dumps(other[there])) if _is_plain(other[there]) else None
    elif how < 0.8 and isinstance(node, dict):
        node[rng.choice(("", "format", "key", "extra", "\n", "__proto__", "x" * 300, str(key) + " "))] = rng.choice(EVIL)
    elif how < 0.9 and isinstance(node, dict):
        node[rng.choice(("renamed", str(key).upper()))] = node.pop(key)
    elif isinstance(node, list):
        node[key : key + 1] = [node[key]] * rng.choice((0, 2, 30))
    else:
        node[key] = [node[key]] if rng.random() < 0.5 else {"a": node[key]}
    return tree


def _is_plain(value: Any) -> bool:
    try:
        return len(json.dumps(value)) < 20_000
    except (ValueError, RecursionError):
        return False


def _written(tree: Any) -> str:
    text = json.dumps(tree, ensure_ascii=False)
    return _RAW.sub(lambda match: match[1].replace("'", '"'), text)


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        tree = json.loads(data)
        return _bytes_of(_written(_changed(tree, rng)) + "\n")
    except (ValueError, RecursionError):
        return rng.choice(_BYTES)(data, [data], rng)


def _lines(data: bytes, rng: random.Random, change: Callable[[bytes, random.Random], bytes]) -> bytes:
    """One line changed, or lines moved, doubled or left out."""
    lines = data.split(b"\n")
    at, how = rng.randrange(len(lines)), rng.random()
    if how < 0.8:
        lines[at] = change(lines[at], rng)
    elif how < 0.87:
        del lines[at]
    elif how < 0.94:
        lines[at:at] = [lines[rng.randrange(len(lines))]]
    else:
        rng.shuffle(lines)
    return b"\n".join(lines)


def _jsonl(data: bytes, rng: random.Random) -> bytes:
    return _lines(data, rng, lambda line, rng: _json(line, rng).strip(b"\n"))


def sealed(text: bytes) -> bytes:
    """A line of a journal (:mod:`lesion.core.journal`) with its checksum, from the text of its object."""
    return text[:-1] + (b"" if text == b"{}" else b", ") + b'"crc": "%08x"}' % zlib.crc32(text)


def _journal(data: bytes, rng: random.Random) -> bytes:
    """As of JSON lines; the checksum of the changed line is right again, as somebody would make it who wants to be read."""

    def change(line: bytes, rng: random.Random) -> bytes:
        try:
            entry = json.loads(line)
            entry.pop("crc")
            return sealed(_bytes_of(_written(_changed(entry, rng))))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return line

    return _lines(data, rng, change)


def _yaml(data: bytes, rng: random.Random) -> bytes:
    how = rng.random()
    if how < 0.02:
        return BOMB.encode() + data
    if how < 0.3:
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        head = lines[at].partition(b":")[0]
        lines[at] = head + b": " + rng.choice(YAML_WORDS).encode()
        return b"\n".join(lines)
    try:
        return _bytes_of(_written(_changed(json.loads(_as_json(data)), rng)))
    except Exception:  # whatever YAML says of a file that is damaged already
        return rng.choice(_BYTES)(data, [data], rng)


@lru_cache(64)
def _as_json(data: bytes) -> str:
    """YAML is read so slowly that the valid files are read once; JSON is YAML too, and is all that is read quickly."""
    return data.decode() if data[:1] in (b"{", b"[") else json.dumps(from_yaml(data))


def _text(data: bytes, rng: random.Random) -> bytes:
    def change(line: bytes, rng: random.Random) -> bytes:
        parts = re.split(rb"([,\t:])", line)
        at = rng.randrange(len(parts))
        parts[at] = rng.choice((rng.choice(WORDS), parts[at] * 2, b"", parts[rng.randrange(len(parts))]))
        return b"".join(parts)

    return _lines(data, rng, change)


# -- tar -----------------------------------------------------------------------------------------------------------------
def _tar(data: bytes, rng: random.Random) -> bytes:
    """A header changed, with a checksum that is right again; or a text in it."""
    heads = [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not heads:
        return rng.choice(_BYTES)(data, [data], rng)
    at = rng.choice(heads)
    if rng.random() < 0.3:
        body = data[at + BLOCK : at + 2 * BLOCK]
        changed = (_json if body.startswith(b"{") else _text)(body.rstrip(b"\0"), rng)[:BLOCK]
        return data[: at + BLOCK] + changed.ljust(BLOCK, b"\0") + data[at + 2 * BLOCK :]
    head = bytearray(data[at : at + BLOCK])
    start, length = rng.choice(_FIELDS)
    value = rng.choice((
        b"", b"\xff" * length, b"\x80" + b"\xff" * (length - 1), b"\x80" + bytes(length - 1), b"7" * length, b"-1",
        b"../../x.txt", b"/etc/passwd", b"a.json", b"\xed\xa0\x80.txt", b"a\nb.txt", b"KgLxSV123560",
        bytes([rng.randrange(256)]) * length,
    ))  # fmt: skip
    head[start : start + length] = value[:length].ljust(length, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:at] + bytes(head) + data[at + BLOCK :]


_STRUCTURED: dict[Kind, Callable[[bytes, random.Random], bytes]] = {
    "json": _json, "jsonl": _jsonl, "journal": _journal, "yaml": _yaml, "text": _text, "tar": _tar,
}  # fmt: skip
