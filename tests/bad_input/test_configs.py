"""Criteria and configurations in YAML that are none, too much, or something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lesion.core.errors import RunError
from lesion.study.options import StudyOptions
from tests.bad_input.checker import HELPS, Case, as_anybody, says, table

ASKED = "study --out run --criterion c.yaml"
ONE = "conditions: [{metric: empty, test: at-least, limit: 0.5}]\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A few hundred bytes that stand for more entries than a machine can hold."""


def text(content: str | bytes) -> Callable[[Path], object]:
    """Makes the criterion's file."""
    return lambda folder: (folder / "c.yaml").write_bytes(content.encode() if isinstance(content, str) else content)


UNREAD = "the criterion in c.yaml cannot be read: ... expected YAML with name and conditions"
CASES = [
    Case("not there", lambda folder: None, ASKED, "the criterion in c.yaml cannot be read: No such file ... expected YAML"),
    Case("a folder", lambda folder: (folder / "c.yaml").mkdir(), ASKED,
         "the criterion in c.yaml cannot be read: Is a directory"),
    Case("a pipe", lambda folder: os.mkfifo(folder / "c.yaml"), ASKED, "c.yaml cannot be read: it is a device or a pipe"),
    Case("a link to itself", lambda folder: (folder / "c.yaml").symlink_to("c.yaml"), ASKED,
         "c.yaml cannot be read: ... symbolic"),
    Case("empty", text(""), ASKED, "not a criterion: c.yaml holds None; expected name and conditions"),
    Case("a comment", text("# nothing\n"), ASKED, "not a criterion: c.yaml holds None; expected name and conditions"),
    Case("a word", text("perplexity"), ASKED, "not a criterion: c.yaml holds 'perplexity'; expected name and conditions"),
    Case("a list", text("- a\n- b\n"), ASKED, "not a criterion: c.yaml holds ['a', 'b']; expected name and conditions"),
    Case("binary", text(bytes(range(256))), ASKED, UNREAD),
    Case("latin-1", text("name: \xfcber\n".encode("latin-1")), ASKED, UNREAD),
    Case("a tab", text("name:\n\t- x\n"), ASKED, UNREAD),
    Case("brackets that stay open", text("conditions: [[["), ASKED, UNREAD),
    Case("brackets without end", text("[" * 1_000), ASKED, UNREAD),
    Case("aliases that grow", text(BOMB), ASKED, UNREAD),
    Case("an alias of itself", text("&a [*a]"), ASKED, UNREAD),
    Case("huge", text("name: " + "x" * 10**6), ASKED, UNREAD),
    Case("an object of Python", text("!!python/object/apply:os.mkdir [made]\n"), ASKED, UNREAD),
    Case("a date", text("name: 2001-99-99\n" + ONE), ASKED, UNREAD),
    Case("no name", text(ONE), ASKED, "not a criterion: name is missing; expected it beside the others"),
    Case("no condition", text("name: mine\nconditions: []\n"), ASKED,
         "not a criterion: conditions is []: tuple should have at least 1"),
    Case("conditions that are a word", text("name: mine\nconditions: all\n"), ASKED,
         "not a criterion: conditions is 'all': input should"),
    Case("an unknown key", text("name: mine\nrules: any\n" + ONE), ASKED,
         "unknown option 'rules'; available: name, about, rule"),
    Case("an unknown rule", text("name: mine\nrule: most\n" + ONE), ASKED, "rule is 'most': input should be 'all' or 'any'"),
    Case("a name that is a number", text("name: 3\n" + ONE), ASKED,
         "not a criterion: name is 3: input should be a valid string"),
    Case("a limit in words", text("name: x\nconditions: [{metric: empty, test: at-least, limit: half}]"), ASKED,
         "not a criterion: conditions.0.limit is 'half': input should be a valid number"),
    Case("a limit that is no number", text("name: x\nconditions: [{metric: empty, test: at-least, limit: .nan}]"), ASKED,
         "not a criterion: conditions.0.limit is nan: input should be a finite number"),
    Case("an unknown test", text("name: x\nconditions: [{metric: empty, test: worse, limit: 1}]"), ASKED,
         "not a criterion: conditions.0.test is 'worse': input should be 'decades', 'at-chance' or 'at-least'"),
    Case("an unknown metric", text("name: x\nconditions: [{metric: bleu, test: at-least, limit: 1}]"), ASKED,
         "criterion 'x' needs the metric 'bleu'; available: "),
    Case("a metric without a value a sample", text("name: x\nconditions: [{metric: ppl_reference, test: at-least, limit: 1}]"),
         ASKED, "criterion 'x' tests 'ppl_reference' at-least, which is pooled over tokens ... use a perplexity with the test"),
    Case("decades of what is no perplexity", text("name: x\nconditions: [{metric: empty, test: decades, limit: 1}]"), ASKED,
         "criterion 'x' counts powers of ten of 'empty'; expected a perplexity"),
    Case("a key that is no word", text("1: 2\n"), ASKED, "not a criterion: ... expected it beside the others"),
    Case("JSON of something else", lambda folder: (folder / "c.json").write_text("[1]"), "study --out run --criterion c.json",
         "not a criterion: c.json holds [1]; expected name and conditions"),
]  # fmt: skip


@table(CASES)
def test_a_criterion_that_is_none_is_said_to_be_none(check: Callable[..., str], case: Case):
    check(case)


def test_a_criterion_that_may_not_be_read(check: Callable[..., str]):
    make = lambda folder: ((folder / "c.yaml").write_text("x"), (folder / "c.yaml").chmod(0))  # noqa: E731
    check(Case("mode 0", make, ASKED, "the criterion in c.yaml cannot be read: Permission denied; expected YAML"), as_anybody())


CONFIGS = {
    "": "expected options by their names", "just a word": "expected options by their names", "- samples: 3": "expected options",
    "[" * 1_000: "it is nested too deeply", "x: " + "y" * 10**6: "it is longer than", BOMB: "it has an alias",
    "samples: many": "samples is 'many': input should be a valid integer",
    "sample: 3": "unknown option 'sample'; available: model",
    "samples: 0": "samples is 0: input should be", "alpha: .nan": "alpha is nan: input should be a finite number",
    "1: 2": "unknown",
    "mask: half": "mask 'half' is unknown; expected one of", "samples: {a: 1}": "samples is {'a': 1}: input should be",
    "criterion: [1]": "criterion is [1]: input should be",
    "criterion: ../../other.yaml": "the criterion by its name or as data",
    "prompt: ''": "prompt is '', which is empty", 'model: "\\0"': "model is '\\x00', which is no text",
    ":": "while parsing a block mapping",
    "!!python/name:os.system": "could not determine a constructor", "samples: 3\nsamples: [": "while parsing",
}  # fmt: skip


@pytest.mark.parametrize("content", CONFIGS, ids=[f"{i}" for i in range(len(CONFIGS))])
def test_a_configuration_that_is_none(content: str):
    with pytest.raises(RunError) as error:
        StudyOptions.from_yaml(content, "run/config.yaml")
    line = str(error.value)
    says(line, f"run/config.yaml is not a study's configuration: ... {CONFIGS[content]} ... choose another --out")
    assert HELPS.search(line) and len(line) < 1000
