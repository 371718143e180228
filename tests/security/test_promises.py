"""SECURITY.md names tests that are there, and numbers that are the code's."""

from __future__ import annotations

import re

from lesion.data.images import MOST_PIXELS
from tests.security.watched import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()


def test_every_promise_names_a_test_that_is_there():
    folders = [ROOT / "tests" / name for name in ("security", "fuzz")]
    files = {path.name: path.read_text() for folder in folders for path in folder.glob("test_*.py")}
    named, last = [], ""
    for file, test in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", PAGE):
        last = file or last
        named.append((last, test))
    assert len(named) > 20
    assert [(file, test) for file, test in named if f"\ndef {test}(" not in files.get(file, "")] == []


def test_every_promise_has_a_test():
    promised = PAGE.split("## What is promised")[1].split("## What is not promised")[0]
    promises = re.findall(r"(?ms)^- (.*?)(?=^- |^#|\Z)", promised)
    assert len(promises) > 15 and [promise for promise in promises if "::test_" not in promise] == []


def test_numbers_are_the_codes():
    assert f"{MOST_PIXELS:,} pixels" in PAGE
