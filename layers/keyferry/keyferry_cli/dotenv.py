"""A strict reader of `.env` files, for secrets that are stored for good.

Libraries for such files are made to start programs: they pass over lines that they do not
understand, let the last of two assignments win, and do not say on which line a value stood or how
it was quoted. Here a file that can be read in two ways is refused,
and a value that some reader would cut or change: flutter_dotenv and Node's dotenv end it at any ``#``,
and flutter_dotenv puts other values in for ``$NAME``.

    # a comment             NAME=bare value  # a comment
    export NAME='as it is'  NAME="with \\n \\r \\t \\" \\\\"

A value in quotes may go on over several lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final


class DotenvError(ValueError):
    """The file cannot be told apart into assignments; ``line`` is where. No text of it is in here."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Assignment:
    """``refused`` says why ``value`` is not what a program would have read, and is empty else."""

    line: int
    name: str
    value: str = field(repr=False)
    refused: str = ""


_SPACE: Final = " \t"
_START: Final = re.compile(r"[ \t]*(?:export[ \t]+)?([^=\n]*)=[ \t]*")
_SINGLE: Final = re.compile(r"'([^']*)'")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_COMMENT: Final = re.compile(r"(?:\A|[ \t])#.*")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REST: Final = re.compile(r"[ \t]*(?:[ \t]#[^\n]*)?(?=\n|\Z)")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_SUBSTITUTION: Final = re.compile(r"\$[{(\w]", re.ASCII)

_REFUSED_SUBSTITUTION: Final = (
    "$NAME, ${…} and $(…) are not expanded; in single quotes they are part of the value"
)
_QUOTES: Final = re.compile("[\"'`\u2018\u2019\u201c\u201d]")
_EDGE: Final = re.compile(r"\A[\s\u200b-\u200f\u2060\ufeff]|[\s\u200b-\u200f\u2060\ufeff]\Z")
"""What looks like nothing, and comes with what is pasted from a web page."""


def parse(text: str) -> Iterator[Assignment]:
    """The assignments of a file, in its order. Raise `DotenvError`."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    position, line = 0, 1
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        content = text[position:end].strip(_SPACE)
        if content and not content.startswith("#"):
            assignment, end = _assignment(text, position, end, line)
            yield assignment
        line += text.count("\n", position, end) + 1
        position = end + 1


def _assignment(text: str, position: int, end: int, line: int) -> tuple[Assignment, int]:
    """The assignment that begins at ``position``, and where the line ends that it ends on."""
    start = _START.match(text, position, end)
    name = start[1].rstrip(_SPACE) if start is not None else ""
    if start is None or not name:
        raise DotenvError(line, "not NAME=VALUE")
    position = start.end()
    match text[position : position + 1]:
        case "'":
            quoted = _SINGLE.match(text, position)
            if quoted is None:
                raise DotenvError(line, "the single quote is not closed")
            value, refused = _verbatim(quoted[1])
        case '"':
            quoted = _DOUBLE.match(text, position)
            if quoted is None:
                raise DotenvError(line, "the double quote is not closed")
            value, refused = _unescaped(quoted[1])
        case _:
            return Assignment(line, name, *_bare(text[position:end])), end
    rest = _REST.match(text, quoted.end())
    if rest is None:
        raise DotenvError(line, "there is something behind the closing quote")
    return Assignment(line, name, value, refused), rest.end()


def _verbatim(raw: str) -> tuple[str, str]:
    # Shells know no escapes in single quotes; of the libraries, some know these two.
    if "\\\\" in raw or raw.endswith("\\"):
        return "", "a backslash in single quotes before another one, or before the quote"
    return raw, ""


def _unescaped(raw: str) -> tuple[str, str]:
    if _SUBSTITUTION.search(raw):
        return "", _REFUSED_SUBSTITUTION
    if any(escape not in _ESCAPES for escape in _ESCAPE.findall(raw)):
        return "", "a backslash in double quotes that escapes nothing known"
    return _ESCAPE.sub(lambda escape: _ESCAPES[escape[1]], raw), ""


def _bare(raw: str) -> tuple[str, str]:
    value = _COMMENT.sub("", raw, count=1).strip(_SPACE)
    refused = ""
    if _SUBSTITUTION.search(value):
        refused = _REFUSED_SUBSTITUTION
    elif "#" in value:
        refused = "a # without a space before it begins a comment for some readers; quote the value"
    elif _QUOTES.search(value):
        refused = "a quote inside of a value without quotes, which shells take away"
    elif "\\" in value:
        refused = "a backslash outside of quotes, which shells take away"
    elif _CONTROL.search(value) or _EDGE.search(value):
        refused = "a control character or an invisible one outside of quotes"
    return ("", refused) if refused else (value, "")
