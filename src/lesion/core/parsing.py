"""Text from files that anyone may have written, as data. What is wrong with it is a ValueError, whatever it is.

The libraries say most of what is wrong with a text by errors of their own, and the rest by others: brackets ten thousand deep,
numbers and dates that are none. YAML is read as plain data, not as objects, and without aliases, by which a few hundred bytes
stand for more entries than a machine can hold.
"""

from __future__ import annotations

import json
from reprlib import Repr
from typing import Any

import yaml

MOST_YAML = 1 << 16
"""Characters of a YAML file. Options and criteria have some hundreds, and it is read slowly."""


def from_json(text: str | bytes) -> Any:
    """JSON as data.

    Raises:
        ValueError: It is none.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_yaml(text: str | bytes) -> Any:
    """YAML as plain data.

    Raises:
        ValueError: It is none, too long, or has aliases; in one line.
    """
    if len(text) > MOST_YAML:
        raise ValueError(f"it is longer than {MOST_YAML:,} characters")
    try:
        data = yaml.load(text, Loader=_Loader)
        # What is written between quotes as \ud800 is no character, and cannot be written again.
        json.dumps(data, ensure_ascii=False, default=str).encode()
        return data
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        # Of what is written as a number, a date or a truth value and is none.
        raise ValueError(f"it has a value that is none ({error})") from None


class _Loader(yaml.SafeLoader):
    """Plain data without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), which is not read")
        return super().compose_node(parent, index)


def text_of(value: Any, name: str) -> str:
    """A value that must be text which can be written again.

    Raises:
        TypeError: It is something else, or has half of a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is {short(value)}; expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TypeError(f"{name} is {short(value)}; expected whole characters") from None
    return value


def number_of(value: Any, name: str, most: int) -> int:
    """A value that must be a whole number, from ``-most`` to ``most``.

    Raises:
        TypeError: It is something else, such as 1.0 or true.
    """
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > most:
        raise TypeError(f"{name} is {short(value)}; expected a whole number")
    return value


def short(value: Any) -> str:
    """A value as Python writes it, without the inside of what is long or deep."""
    return _SHORT.repr(value)


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 3
