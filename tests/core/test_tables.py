"""Tables for programs, papers and notebooks."""

from __future__ import annotations

import csv
import io

from lesion.core import tables

ROWS = [
    {"name": "a|b", "k": 1234, "x": 0.000123456789, "ok": True, "evaluation": "abc"},
    {"name": "<i>", "k": None, "x": 2.0, "ok": False, "more": 1.5, "evaluation": "def"},
]


def test_csv_keeps_digits_and_leaves_none_empty():
    back = list(csv.DictReader(io.StringIO(tables.to_csv(ROWS))))
    assert back[0] == {"name": "a|b", "k": "1234", "x": "0.000123456789", "ok": "True", "evaluation": "abc", "more": ""}
    assert back[1]["k"] == "" and back[1]["more"] == "1.5"
    assert tables.to_csv([]).strip() == ""


def test_markdown_has_one_line_a_row_and_no_keys():
    lines = tables.markdown(ROWS).splitlines()
    assert lines[0] == "| name | k | x | ok | more |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| a\\|b | 1,234 | 0.000123 | yes | – |"
    assert len(lines) == 4 and "abc" not in "".join(lines)
    assert tables.markdown([]) == "(no rows)\n"


def test_html_is_escaped():
    text = tables.html(ROWS)
    assert "&lt;i&gt;" in text and "<i>" not in text and "abc" not in text


def test_numbers_as_people_read_them():
    assert [tables.show(v) for v in (None, True, 12345, 0.5, 0.0, 123456.7, 1e-9)] == [
        "–", "yes", "12,345", "0.5", "0", "1.23e+05", "1e-09",
    ]  # fmt: skip
