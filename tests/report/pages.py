"""Reads reports: what is in a page, as a reader and as a browser see it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lesion.report.html import Run
from tests import results
from tests.results import save


class Page(HTMLParser):
    """Elements, texts and the payloads of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str, **wanted: str) -> int:
        return sum(name == tag and all(attrs.get(k) == v for k, v in wanted.items()) for name, attrs in self.tags)


def payload(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" class="payload">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def run(folder: Path, **options: Any) -> Run:
    return Run.load(save(results.result(**options), folder))


def plain(page: str) -> str:
    """What a reader sees, in one line."""
    return " ".join(Page(re.sub(r"(?s)<(script|style)\b.*?</\1>", "", page)).text.split())
