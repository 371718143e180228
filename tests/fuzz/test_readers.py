"""Every reader on damaged files: it reads them, or refuses them in one line, soon, and without filling the memory.

This is a short run of what ``python -m tests.fuzz`` does for long; hypothesis chooses, the same files every time.
"""

from __future__ import annotations

import json
import random
import re
import struct
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lesion.core.errors import DataError, LesionError, NeuronSetError
from tests.fuzz import limits
from tests.fuzz.__main__ import fuzz
from tests.fuzz.limits import attempt, bounded, check_message
from tests.fuzz.mutations import BOMB, mutate, sealed
from tests.fuzz.readers import READERS, Reader, corpus

EXAMPLES = {
    "config": 80, "options": 80, "criterion": 120, "evaluations": 80, "report": 80, "explained": 40, "parquet": 40, "saved": 40,
    "figures": 20,
}  # fmt: skip
USUAL = 300
"""Files for a reader that is quick."""


def damaged(name: str, seed: int) -> bytes:
    rng = random.Random(seed)
    return mutate(READERS[name].kind, rng.choice(corpus(name)), corpus(name), rng)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name: str):
    reader, count = READERS[name], EXAMPLES.get(name, USUAL)
    seen: list[bytes] = []

    # A file is chosen by a number: in a report of a failure, the file itself would fill the screen.
    @settings(derandomize=True, database=None, deadline=None, max_examples=count, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(0, 2**64 - 1) | st.binary(max_size=200))
    def check(chosen: int | bytes) -> None:
        seen.append(chosen if isinstance(chosen, bytes) else damaged(name, chosen))
        failure = reader.attempt(seen[-1])
        if failure is not None:
            pytest.fail(failure.what)

    corpus(name)  # reads the valid files, and with them loads what is loaded once
    with bounded():
        check()
    assert len({*seen}) > count / 3


# -- what was found, and must not come back ------------------------------------------------------------------------------
def changed(name: str, *path: Any, to: Any) -> bytes:
    """The first valid file of a reader, JSON, with one value changed; ``to`` may be text that is put in as it is."""
    tree = json.loads(corpus(name)[0])
    node = tree
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = "@@" if isinstance(to, bytes) else to
    return json.dumps(tree).encode().replace(b'"@@"', to) if isinstance(to, bytes) else json.dumps(tree).encode()


def deep(opened: bytes = b"[", closed: bytes = b"]") -> bytes:
    return opened * 100_000 + closed * 100_000


def listed(kind: int, count: int) -> bytes:
    """A GGUF file one of whose lists claims to have so many entries of a type."""
    data, key = corpus("gguf")[0], b"tokenizer.ggml.token_type"
    at = data.index(key) + len(key) + 4
    return data[:at] + struct.pack("<IQ", kind, count) + data[at + 12 :]


def claiming(size: bytes, kind: bytes = b"0") -> bytes:
    """A tar file whose first member claims a size."""
    data = bytearray(corpus("shard")[0])
    data[124:136], data[156:157], data[148:156] = size.ljust(12, b"\0"), kind, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def evaluated(line: Any) -> bytes:
    """A run's evaluations with one more line, whose checksum is right."""
    return corpus("evaluations")[0] + sealed(line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"


def certified(line: Any) -> bytes:
    """A certificate with one more line, whose checksum is right."""
    return corpus("certificate")[0] + sealed(line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"


HUGE, LARGE = b"\x80" + b"\x7f" * 11, b"\x80" + (2**40).to_bytes(11, "big")
FOUND: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a number that is none": (
        "neurons",
        lambda: changed("neurons", "sites", 0, "layer", to=b"1e999"),
        "layer is inf; expected a whole",
    ),
    "an index that is half": (
        "neurons",
        lambda: changed("neurons", "sites", 0, "indices", to=[1.5]),
        "an index is 1.5; expected a whole",
    ),
    "an index as words": (
        "neurons",
        lambda: changed("neurons", "sites", 0, "indices", to=["1"]),
        "an index is '1'; expected a whole",
    ),
    "an index beyond": (
        "neurons",
        lambda: changed("neurons", "sites", 0, "indices", to=[2**80]),
        "an index is 1208925819614629174706176",
    ),
    "a list of lists": (
        "neurons",
        lambda: changed("neurons", "sites", 0, "indices", to=[[1]]),
        r"an index is \[1\]; expected a whole",
    ),
    "a width of 10**30": (
        "neurons",
        lambda: changed("neurons", "sites", 0, "width", to=10**30),
        "width is 1000000000000000000000000000000",
    ),
    "a path that is a number": ("neurons", lambda: changed("neurons", "sites", 0, "path", to=5), "path is 5; expected a text"),
    "half a character": ("neurons", lambda: changed("neurons", "sites", 0, "path", to="\ud800"), "expected whole characters"),
    "a site twice": (
        "neurons",
        lambda: changed("neurons", "sites", to=json.loads(corpus("neurons")[0])["sites"][:1] * 2),
        "is there twice",
    ),
    "a revision that is a list": (
        "neurons",
        lambda: changed("neurons", "model", "revision", to=[1]),
        r"revision is \[1\]; expected a text",
    ),
    "brackets in a set": ("neurons", deep, "cannot be read as a set of neurons: it is nested too deeply"),
    "a score that is a word": (
        "ranking",
        lambda: b"path,role,index,can\nlayers.0.mlp.down_proj,down,1,high\n",
        "line 2 is not a line",
    ),
    "an alias bomb": ("options", lambda: BOMB.encode() + b"model: *i\n", r"it has an alias \(\*name\), which is not read"),
    "an alias bomb in a criterion": ("criterion", lambda: b"name: x\n" + BOMB.encode(), r"it has an alias \(\*name\)"),
    "brackets in YAML": ("options", lambda: b"model: " + b"[" * 20_000, "it is nested too deeply"),
    "a long YAML": ("criterion", lambda: b"name: " + b"x" * 100_000, "it is longer than 65,536"),
    "an object of Python": (
        "options",
        lambda: b"model: !!python/object/apply:os.system [ls]",
        "could not determine a constructor",
    ),
    "a date that is none": ("options", lambda: b"model: 2001-99-99", r"it has a value that is none \(month must be in 1..12\)"),
    "a timestamp that is none": ("options", lambda: b"model: !!timestamp x", "it has a value that is none"),
    "no dictionary": ("options", lambda: b"- 1", "expected options by their names"),
    "an option named cls": ("options", lambda: b"cls: 1", "unknown option 'cls'"),
    "a criterion in a file": ("options", lambda: b"criterion: /etc/passwd.yaml", "the criterion by its name or as data"),
    "ten billion layers": ("options", lambda: b"layers: 0-9999999999", "layers is '0-9999999999'; expected numbers and ranges"),
    "NaN": ("report", lambda: changed("report", "curve", 0, "ppl_reference", to=b"NaN"), "a metric is nan"),
    "a score of 10**30": (
        "report",
        lambda: changed("report", "curve", 0, "outcomes", 0, "clip", to=10**30),
        "an outcome whose clip is 1000000000000000000000000000000",
    ),
    "a metric of 10**400": (
        "report",
        lambda: changed("report", "curve", 0, "ppl_reference", to=b"1" + b"0" * 400),
        "a metric is 1000",
    ),
    "a k* beside the curve": ("report", lambda: changed("report", "k_star", to=77), "k_star is 77, and is not on the curve"),
    "an outcome without an answer": (
        "report",
        lambda: changed("report", "curve", 0, "outcomes", 0, to={}),
        "an outcome without id",
    ),
    "a pair too few": ("explained", lambda: changed("explained", "pairs", to=[]), "has not every neuron and pair"),
    "a row too long": (
        "certificate",
        lambda: certified({"site": 0, "first": 1, "nll": [[1.0, 1.0, 1.0]]}),
        "is damaged; delete it",
    ),
    "a neuron there is not": (
        "certificate",
        lambda: certified({"site": 0, "first": 64, "nll": [[1.0, 1.0]]}),
        "is damaged; delete it",
    ),
    "an answer that is a word": (
        "certificate",
        lambda: certified({"sets": [[[0, 9]]], "collapsed": ["no"]}),
        "is damaged; delete it",
    ),
    "a likelihood that is a word": (
        "certificate",
        lambda: certified({"site": 0, "first": 1, "nll": [["x", 1]]}),
        "is damaged; delete it",
    ),
    "an entry without an id": (
        "coco-instances",
        lambda: changed("coco-instances", "images", 0, to={}),
        "an entry has no 'file_name'",
    ),
    "a box of two": (
        "coco-instances",
        lambda: changed("coco-instances", "annotations", 2, "bbox", to=[1]),
        "is not a COCO annotation file",
    ),
    "a box of many words": (
        "coco-instances",
        lambda: changed("coco-instances", "annotations", 2, "bbox", to=[0, 0, "x", 2**33]),
        "is not a COCO annotation file: could not convert string to float",
    ),
    "an area of 10**400": (
        "coco-instances",
        lambda: changed("coco-instances", "annotations", 0, "area", to=b"1" + b"0" * 400),
        "is not a COCO annotation file: int too large",
    ),
    "brackets in captions": ("coco-captions", deep, "is not JSON"),
    "brackets in a line": ("asked", lambda: deep(b'{"a":', b"}"), "is not JSON"),
    "a picture elsewhere": ("asked", lambda: b'{"image": "/etc/passwd"}', "'/etc/passwd' is not below"),
    "a picture above": ("asked", lambda: b'{"image": "pictures/../../x.png"}', "'pictures/../../x.png' is not below"),
    "COCO's picture elsewhere": (
        "coco-instances",
        lambda: changed("coco-instances", "images", 0, "file_name", to="/etc/x.png"),
        "is not below",
    ),
    "a name of 2**87 bytes": ("shard", lambda: claiming(HUGE, b"L"), "cannot be read as a tar file"),
    "a name of a terabyte": ("shard", lambda: claiming(LARGE, b"L"), "cannot be read as a tar file|has no image"),
    "a member of 2**87 bytes": ("shard", lambda: claiming(HUGE), "cannot be read as a tar file"),
    "a list of 2**60 bytes": ("gguf", lambda: listed(0, 2**60), "it is shorter than a list in it"),
    "a list of 2**60 words": ("gguf", lambda: listed(8, 2**60), "it is shorter than a list in it"),
    "a list of what there is not": ("gguf", lambda: listed(77, 2), "it has a value of type 77"),
    "a limit of 2**63 powers of ten": (
        "criterion",
        lambda: changed("criterion", "conditions", 0, "limit", to=2**63),
        "expected at most 300|less than or equal",
    ),
    "more rows than there are": (
        "parquet",
        lambda: (Path(__file__).parent / "found" / "rows.parquet").read_bytes(),
        "says that it has [0-9,]+ rows",
    ),
    "a config that is no UTF-8": ("config", lambda: b"\xff", "is not a study's configuration"),
    "brackets in an evaluation": ("evaluations", lambda: evaluated(b'{"key": ' + deep() + b"}"), "is damaged; remove it"),
    "brackets in a certificate": ("certificate", lambda: certified(b'{"nll": ' + deep() + b"}"), "is damaged; remove it"),
    "an evaluation without a key": ("evaluations", lambda: evaluated({"neurons": 1}), "is damaged; remove it"),
    "a key that is a list": ("evaluations", lambda: evaluated({"key": []}), "is damaged; remove it"),
    "an evaluation without samples": ("evaluations", lambda: evaluated({"key": "x", "neurons": 1}), "is damaged; remove it"),
    "an outcome without an id": (
        "evaluations",
        lambda: evaluated({"key": "x", "neurons": 1, "samples": [{}]}),
        "is damaged; remove it",
    ),
    "a reading without a reference": (
        "evaluations",
        lambda: evaluated({"key": "x-reading", "samples": [{}]}),
        "is damaged; remove it",
    ),
}
"""What is wrong with a file -> its reader, the file, and what is said of it."""


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_is_refused(what: str):
    name, make, says = FOUND[what]
    corpus(name)
    data, start = make(), time.process_time()
    with bounded(), pytest.raises(LesionError) as raised:
        READERS[name].read(data)
    assert time.process_time() - start < limits.SECONDS
    check_message(str(raised.value))
    assert re.search(says, str(raised.value)), str(raised.value)


def test_lines_of_anything_are_one_line():
    error = NeuronSetError("a\nb\r\n\x1b[2J\u2028\u202e\ud800\u200b" + "x" * 10_000)
    check_message(str(error))
    assert str(error).startswith("a b") and "\N{SYMBOL FOR ESCAPE}[2J" in str(error)
    assert str(DataError("Grüße, 图.png: no such file")) == "Grüße, 图.png: no such file"


# -- the harness: a test that cannot fail is none ------------------------------------------------------------------------
def refuse(message: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        raise LesionError(message)

    return read


def loop(data: bytes) -> None:
    while True:
        pass


def hoard(data: bytes) -> None:
    b"x" * (64 << 20)  # pyright: ignore[reportUnusedExpression]


def claim(data: bytes) -> None:
    bytearray(1 << 40)


def test_a_bad_reader_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "SECONDS", 0.2)

    def miss(data: bytes) -> None:
        json.loads(data)["a"]

    assert attempt(miss, b'{"a": 1}') is None and attempt(refuse("no"), b"") is None
    failure = attempt(miss, b"{}")
    assert failure is not None and failure.kind == "KeyError in test_readers.py:miss" and failure.data == b"{}"
    with bounded():
        slow, large = attempt(loop, b""), attempt(hoard, b"", growth=1 << 20)
    assert slow is not None and slow.kind.startswith("TooSlow") and large is not None and large.kind == "memory"
    with bounded():
        lying = attempt(claim, b"")
    assert lying is not None and lying.kind.startswith("MemoryError")


def test_a_bad_message_is_found(monkeypatch: pytest.MonkeyPatch):
    assert (empty := attempt(refuse(" "), b"")) is not None and empty.kind == "message"
    monkeypatch.setattr(LesionError, "__str__", Exception.__str__)
    for message in ("two\nlines", "\x1b[2J", "x" * 5000):
        failure = attempt(refuse(message), b"")
        assert failure is not None and failure.kind == "message"


def test_a_long_run_counts_and_saves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any):
    def read(data: bytes) -> None:
        json.loads(data)["sites"][0]["layer"] += 1

    made = corpus("neurons")
    monkeypatch.setitem(READERS, "neurons", Reader(read, "json", lambda: list(made)))
    failed = fuzz("neurons", 200, 0, tmp_path)
    assert failed["KeyError in test_readers.py:read"] > 0
    saved = sorted(tmp_path.iterdir())
    assert saved and all(READERS["neurons"].attempt(file.read_bytes()) is not None for file in saved)
    assert f"neurons: 200 executions in 0 s, {sum(failed.values())} failures" in capsys.readouterr().out


def test_damage_is_the_same_every_time_and_gets_past_the_parser():
    for name, reader in READERS.items():
        first, second = ([damaged(name, seed) for seed in range(30)] for _ in range(2))
        assert first == second and len({*first} - {*corpus(name)}) > 15, name
        if reader.kind in ("json", "journal"):
            assert sum(map(parses, first)) >= 12, name
    whole = [data for data in (damaged("shard", seed) for seed in range(60)) if opens(data)]
    assert len(whole) >= 20


def parses(data: bytes) -> bool:
    try:
        return all(json.loads(line) is not None for line in data.splitlines())
    except (ValueError, RecursionError):
        return False


def opens(data: bytes) -> bool:
    import io

    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            return bool(tar.getnames())
    except Exception:
        return False


def test_a_line_is_sealed_as_the_journal_does_it(tmp_path: Path):
    from lesion.core.journal import Journal

    journal = Journal(tmp_path / "j")
    entries: list[dict[str, Any]] = [{"a": [1, "\u00fc"]}, {}]
    journal.append(entries)
    made = b"".join(sealed(json.dumps(e, ensure_ascii=False).encode()) + b"\n" for e in entries)
    assert made == (tmp_path / "j").read_bytes()
