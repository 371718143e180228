"""Which words of an answer changed."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

SAME, NEW, GONE = "=", "+", "-"
"""What became of a piece of text."""

Piece = tuple[str, str]

# Control characters are no HTML; each has a picture of its own in Unicode.
_CONTROLS = {i: 0x2400 + i for i in range(32) if chr(i) not in "\t\n\r"} | {0x7F: 0x2421}
# Chinese and Japanese are written without spaces: there, each character counts as a word.
_WORD = re.compile(r"(?:[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]+)\s*")


def changes(intact: str, answer: str) -> list[Piece]:
    """The answer in pieces, each the same as in the intact answer, new, or gone from it.

    Words that others have replaced are left out, so that an answer which shares nothing with the intact one is shown as
    itself; words that were dropped are kept, marked as gone.

    Args:
        intact: The intact model's answer.
        answer: The masked model's answer. Its pieces, without those that are gone, make up the whole of it.
    """
    before, after = _words(intact), _words(answer)
    pieces: list[Piece] = []
    for what, i, j, m, n in SequenceMatcher(None, [w.strip() for w in before], [w.strip() for w in after]).get_opcodes():
        kind, text = (GONE, before[i:j]) if what == "delete" else (SAME if what == "equal" else NEW, after[m:n])
        glued = kind == GONE and pieces and not pieces[-1][1][-1].isspace()
        pieces += _piece(kind, (" " if glued else "") + "".join(text))
    return pieces


def _piece(kind: str, text: str) -> list[Piece]:
    """White space at the end of new words is not marked as new."""
    words = text.rstrip()
    if kind != NEW or words == text:
        return [(kind, text)]
    return [(kind, words), (SAME, text[len(words) :])] if words else [(SAME, text)]


def visible(text: str) -> str:
    """Text whose control characters can be seen."""
    return text.translate(_CONTROLS)


def _words(text: str) -> list[str]:
    """Together they are the text: white space belongs to the word before it, at the beginning to the first."""
    words = _WORD.findall(text)
    lead = text[: len(text) - len(text.lstrip())]
    if not words:
        return [text] if text else []
    return [lead + words[0], *words[1:]]
