"""Mistakes that a user can mend. The command line prints their message as one line and exits with code 2."""

from __future__ import annotations

MOST = 1400
"""So many characters of a message are shown; a file that is damaged can put anything into one."""


class LesionError(Exception):
    """Base of all of them. A message says what was found, what was expected or available, and what to do.

    Whatever it quotes, it is one line that every terminal can show, and not a long one.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class ModelError(LesionError):
    """The model cannot be loaded, or has nothing that lesion can mask."""


class DataError(LesionError):
    """No usable images."""


class OptionError(LesionError, ValueError):
    """An option has a value that makes no sense, by itself or for this model."""


class NeuronSetError(LesionError, ValueError):
    """A set of neurons does not fit the model, or its file cannot be read."""


class RunError(LesionError):
    """The run directory belongs to another study, is in use, or is damaged."""


def one_line(text: str) -> str:
    """Text as one line: a line break is a blank, and what no printer shows, such as a turn of direction, is a mark."""
    text, half = text if text.isprintable() else printable(" ".join(text.splitlines())), MOST // 2
    return text if len(text) <= MOST else f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    """Text in which every character that no printer shows is a mark."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _mark(c) for c in text)


def _mark(character: str) -> str:
    if character.isspace():
        return " "
    return chr(0x2400 + ord(character)) if character < " " else "\N{REPLACEMENT CHARACTER}"
