"""Whether a value looks like one that somebody has still to fill in.

The rules are for what people write into templates of `.env` files. They look at a value as a whole,
so that a real key that happens to contain such a word passes: a key that is wrongly left out of an
import costs more than a placeholder that is stored.
"""

from __future__ import annotations

import json
import re
from typing import Final

MIN_LENGTH: Final = 8
"""Characters; less is too little for a secret that nobody can guess."""

_MARKS: Final = re.compile(
    r"\$\{.*\}|\{\{.*\}\}"  # to be filled in by a tool, anywhere in the value
    r"|\A(?:<.*>|\[.*\]|%\w+%|\$[A-Z][A-Z0-9_]+|__\w+__)\Z",  # or by a person, all of it
    re.DOTALL,
)
_LEFT_OUT: Final = re.compile(r"\.{3}|…|\*{3}|•{3}|(?i:x{6})")
"""What stands where the rest of a key was."""

_PHRASES: Final = re.compile(
    r"(?i)change[-_ ]?me|placeholder|replace[-_ ](?:me|this|with)|(?:key|token|secret)[-_ ]?here"
    r"|(?<![a-z0-9])your[-_ ]?(?:[a-z]+[-_ ])?(?:api|key|token|secret|password)"
    r"|EXAMPLE(?:KEY)?\Z"  # as AWS ends the keys of its documentation
)
_PREFIX: Final = re.compile(r"[A-Za-z]{1,8}[-_]|AIza|AKIA|Bearer ")
"""With which keys of a kind begin."""

_STRONG: Final = re.compile(
    "changeme|default|dummy|empty|example|fake|fixme|foo|foobar|bar|baz|insert|missing|mock|none|null"
    "|placeholder|redacted|removed|replace|sample|tbd|test|testing|tests|todo|undefined|unset|xxx|your"
)
_WEAK: Final = re.compile(
    "a|access|add|an|api|apikey|app|auth|change|client|enter|for|from|get|goes|here|in|is|it|keys?"
    "|live|me|my|new|of|only|password|paste|put|real|secret|set|some|string|the|this|to|token|use"
    "|value|with|pk|sk"
)
"""Words that make no key, and of which a value has some beside a strong one."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ORDERS: Final = ("0123456789" * 10, "abcdefghijklmnopqrstuvwxyz" * 4, "0123456789abcdef" * 8)


def placeholder_in(value: str, name: str) -> str | None:
    """Why ``value``, of a key called ``name``, looks like a placeholder, without quoting it; None
    when it does not."""
    value = value.strip()
    if len(value) < MIN_LENGTH:
        return f"it has fewer than {MIN_LENGTH} characters"
    if _MARKS.search(value):
        return "it is marked as something to fill in"
    if _is_json(value):
        return None
    letters = _plain(value)
    if not letters or len(set(letters)) == 1:
        return "it is one character over and over"
    if letters == _plain(name):
        return "it is the name of the key"
    rest = _PREFIX.sub("", value, count=1)
    if _LEFT_OUT.search(rest) and len(set(_plain(rest))) <= 8:
        return "a part of it is left out"
    if any(letters in order or _plain(rest) in order for order in _ORDERS):
        return "its characters stand in order"
    if _PHRASES.search(value) or _only_words(value):
        return "it is made of words for a key"
    return None


def _is_json(value: str) -> bool:
    """Credentials come as JSON too, such as those of Google's service accounts."""
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False


def _plain(text: str) -> str:
    return "".join(re.findall(r"[^\W_]", text)).lower()


def _only_words(value: str) -> bool:
    words = [word.lower() for word in _WORD.findall(value)]
    strong = [word for word in words if _STRONG.fullmatch(word)]
    known = all(word in strong or _WEAK.fullmatch(word) for word in words)
    # A key of digits may well begin with a weak word.
    digits = sum(map(str.isdigit, value))
    return known and bool(strong or sum(map(len, words)) > digits)
